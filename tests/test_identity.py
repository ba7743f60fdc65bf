"""Who we are to a broker: what FastStream, and the client behind it, are told."""

import msgspec
import pytest
import trustme
from faststream.kafka.security import parse_security

from whisperd.brokers.identity import BrokersUnusable, identity
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


def test_the_ends_of_a_cluster_have_one_address():
    assert Brokers(url="kafka://a:9092,b:9092").address == "kafka://a:9092/whisperd.events"


@pytest.mark.parametrize("url", ["kafka://user:secret@a:9092", "kafka://a:9092/topic", "kafka://"])
def test_an_address_of_kafka_is_hosts_and_no_more(url):
    with pytest.raises(msgspec.ValidationError, match="url"):
        msgspec.convert({"url": url}, Brokers)
