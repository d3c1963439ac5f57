#!/usr/bin/env python3
"""Sends an e-mail to everybody who signs up, from a RabbitMQ queue.

    create table users (id bigint generated always as identity primary key, name text, email text);

    pgherald stream "dbname=shop" --tables public.users --to "amqp://localhost/?exchange=shop"
    python3 welcome_email.py amqp://localhost/ shop            # prints the e-mails
    python3 welcome_email.py amqp://localhost/ shop localhost  # sends them through that SMTP server

The queue is durable and a message is acknowledged once its e-mail is on its way, so none is missed
when this program is down. An event may come again after a crash, with the same message id: the ids
that are done are kept, here in a small SQLite file.
"""
import email.message
import json
import smtplib
import sqlite3
import sys

import pika


def letter(user):
    message = email.message.EmailMessage()
    message["From"] = "shop@example.org"
    message["To"] = user["email"]
    message["Subject"] = f"Welcome, {user['name']}"
    message.set_content(f"Hello {user['name']},\n\nthank you for signing up.\n")
    return message


def send(message, smtp_host):
    if smtp_host:
        with smtplib.SMTP(smtp_host) as smtp:
            smtp.send_message(message)
    else:
        print(message, flush=True)


def main(url, exchange, smtp_host=None):
    done = sqlite3.connect("welcome_email.db", isolation_level=None)
    done.execute("create table if not exists done (id text primary key)")
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.exchange_declare(exchange, "topic", durable=True)
    channel.queue_declare("welcome", durable=True)
    channel.queue_bind("welcome", exchange, "public.users.insert")
    channel.basic_qos(prefetch_count=10)
    print("waiting for sign-ups", file=sys.stderr, flush=True)
    for method, properties, body in channel.consume("welcome"):
        seen = done.execute("select 1 from done where id = ?", (properties.message_id,)).fetchone()
        if not seen:
            send(letter(json.loads(body)["new"]), smtp_host)
            done.execute("insert into done values (?)", (properties.message_id,))
        channel.basic_ack(method.delivery_tag)


if __name__ == "__main__":
    main(*sys.argv[1:])
