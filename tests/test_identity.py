"""Who we are to a broker: what FastStream, and the client behind it, are told."""

import msgspec
import pytest
import trustme
from faststream.kafka.security import parse_security
from pamqp import decode

from whisperd.brokers.identity import BrokersUnusable, identity
from whisperd.brokers.rabbit import check
from whisperd.config import Brokers


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize(("scheme", "protocol"), [("kafka", "SASL_PLAINTEXT"), ("kafkas", "SASL_SSL")])
def test_kafka_is_shown_the_password_as_it_is_set(tmp_path, scheme, protocol, mechanism):
    (tmp_path / "password").write_text("secret\n")
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    said = parse_security(
        identity(
            Brokers(
                url=f"{scheme}://a:9092",
                username="whisperd",
                password_file=str(tmp_path / "password"),
                mechanism=mechanism,
                ca_file=str(tmp_path / "ca.pem"),
            )
        )
    )

    assert (said["security_protocol"], said["sasl_mechanism"]) == (protocol, mechanism)
    assert (said["sasl_plain_username"], said["sasl_plain_password"]) == ("whisperd", "secret")
    assert (said["ssl_context"] is not None) == (scheme == "kafkas")


def test_a_password_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(BrokersUnusable, match="password_file"):
        identity(Brokers(url="kafka://a", username="a", password_file=str(tmp_path / "none")))


def test_the_ends_of_a_cluster_have_one_address_whatever_hosts_are_named():
    assert Brokers(url="kafka://a:9092,b:9092").address == "kafka:///whisperd.events"


def test_rabbitmq_is_shown_the_password_in_its_own_way(tmp_path):
    (tmp_path / "password").write_text("secret")
    settings = Brokers(
        url="amqp://a", username="a", password_file=str(tmp_path / "password"), mechanism="SCRAM-SHA-256"
    )

    assert type(identity(settings)).__name__ == "SASLPlaintext"


@pytest.mark.parametrize(
    "url", ["kafka://user:secret@a:9092", "kafka://a:9092/topic", "kafka://", "kafka://a,,b", "kafka://a,"]
)
def test_an_address_of_kafka_is_hosts_and_no_more(url):
    with pytest.raises(msgspec.ValidationError, match="url"):
        msgspec.convert({"url": url}, Brokers)


def test_what_a_property_holds_that_is_no_text_or_no_time_stops_nothing():
    check(Brokers(url="amqp://a"))
    latin, micros = b"\x04caf\xe9", (1_764_400_000_000_000).to_bytes(8, "big")

    assert decode.METHODS["shortstr"](latin) == (5, "caf\\xe9")
    assert decode.METHODS["timestamp"](micros) == (8, None)
    assert decode.METHODS["table"]((11).to_bytes(4, "big") + b"\x01aT" + micros) == (15, {})
