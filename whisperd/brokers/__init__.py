"""Messages in and out, by way of RabbitMQ or Kafka: tasks come from there, and their ends are told there.

No second way to submit: a message is the JSON body of a call, which is made inside this process, so that what
holds over HTTP holds here. And no second outbox: an end is a delivery, as a webhook is one. `inbox` decides
what becomes of a message, `rabbit` and `kafka` are the ways to a broker, `post` keeps one open. See
docs/brokers.md.
"""
