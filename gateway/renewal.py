"""A newer token lets the open streams of its subject go on, in every process: nobody reconnects to renew.

Whoever presents a token that outlives open streams of its subject has it told to all processes over core NATS: what it
says, never the token. Each decides anew, by that, about the streams that it has. A loss is harmless: such a stream ends
with its old token, and its client comes back with the new one.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import structlog

from auth.claims import Claims, pack, unpack
from auth.errors import AuthError
from gateway.audiences import find_access
from gateway.authorization import must_hold
from streams.errors import StreamsError
from streams.subscriber import Grant
from streams.topics import Topic, topic_of

if TYPE_CHECKING:
    from nats.aio.client import Client

    from gateway.process import Gateway
    from streams.subscriber import Subscriber

_SUBJECT: Final = "passline.renewed"

_log = structlog.get_logger()


class Renewals:
    """The renewals of one process: `present` what a token says; `run` hears of those of all processes."""

    def __init__(self, client: Client, gateway: Gateway) -> None:
        self._client = client
        self._gateway = gateway

    async def present(self, claims: Claims) -> None:
        """Somebody has presented a token elsewhere than for a stream: it may be a newer one."""
        await self._client.publish(_SUBJECT, pack(claims))

    async def present_for_stream(self, claims: Claims) -> None:
        """The same of who opens a stream, as thousands do at once: told only if it outlives one that is here."""
        if self._outlived(claims):
            await self.present(claims)

    async def run(self) -> None:
        """Until cancelled."""
        subscription = await self._client.subscribe(_SUBJECT)
        try:
            async for message in subscription.messages:
                claims = unpack(message.data)
                for subscriber in self._outlived(claims):
                    await self._renew(subscriber, claims)
        finally:
            await asyncio.shield(subscription.unsubscribe())

    def _outlived(self, claims: Claims) -> list[Subscriber]:
        return self._gateway.hub.outlived(claims.key, self._expires_at(claims))

    def _expires_at(self, claims: Claims) -> float:
        return self._gateway.hub.clock() + claims.expires_at - time.time()

    async def _renew(self, subscriber: Subscriber, claims: Claims) -> None:
        """Decide about the stream's topics as if it were opened now."""
        gateway, facts = self._gateway, self._gateway.facts
        decided_at, epoch = facts.position, facts.epoch
        try:
            await must_hold(facts, claims)
            for key in subscriber.keys:
                way = await find_access(gateway, claims, Topic.parse(topic_of(key)))
                if way.feed.key != key:
                    return
                await way.allow(facts)
        except (AuthError, StreamsError) as refusal:
            _log.info("stream.not_renewed", topics=[topic_of(key) for key in subscriber.keys], reason=str(refusal))
            return
        grant = Grant(
            epoch,
            decided_at,
            subscriber.grant.revocable_by,
            self._expires_at(claims),
            claims.key,
            token_id=claims.token_id,
            issued_at=claims.issued_at,
        )
        if gateway.hub.renew(subscriber, grant):
            _log.info("stream.renewed", topics=[topic_of(key) for key in subscriber.keys], subject=claims.key)
