"""Any events in any chunks in any reads: the client gets what it gets where all are parsed."""

from __future__ import annotations

import asyncio
import contextlib
import json

from e2e.wire import Reply
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import DONE, HI, STOP, chunk, cut_at, sse

from edge.flowing import LAST, Rig, heard, http, listen, rigged, without_lane
from edge.loopback import LOOPS

SAID = sse(chunk(content="Aye."))
RAW = json.dumps(chunk(content="Grüße 🐳"), ensure_ascii=False).encode()
EVENTS = (
    *(SAID, SAID, SAID, sse(HI), sse(RAW), sse(chunk(content="x" * 300)), sse(chunk(role="a"))),
    *(SAID.replace(b"\n", b"\r\n"), SAID.replace(b"data: ", b"data:"), b": keepalive\n\n", b"\n"),
    *(
        sse(HI, name="message"),
        b"event: x\n\n",
        b"id: 7\n" + SAID,
        sse(chunk(index=1, content="y")),
    ),
    *(sse(RAW.replace(b"Gr", b"\xff")), sse(chunk(content="x" * 5000)), sse("{}"), b"data: \n\n"),
    *(sse(STOP), DONE, sse({"error": {"message": "m"}}), sse("not json"), sse(SAID), b"data: {"),
    *(http(SAID), SAID.replace(b"{", b"\r{", 1), SAID.replace(b", ", b",\r", 1)),
)
"""Most of them ordinary, and the rest odd in all the ways that there are tests of."""

HEADS = ("%x", "%x", "%x", "%x", "%X", "0%x", "%x;a=b", "%x ", "1%x", "%x0")
"""How sizes are written; the last two lie."""

Item = tuple[bytes, str, int, list[int]]
"""An event, how its chunk's size is written, where it is cut into two chunks, where into reads."""

ITEMS = st.tuples(
    st.sampled_from(EVENTS),
    st.sampled_from(HEADS[:4]) | st.sampled_from(HEADS),
    st.just(0) | st.integers(0, 40),
    st.just([]) | st.lists(st.integers(0, 60), max_size=3),
)
ENDS = st.sampled_from(("last", "last", "close", "reset", "trailers"))


def reads_of(items: list[Item], merged: set[int]) -> list[bytes]:
    """Write events as reads, some of them with the one before."""
    reads: list[bytes] = []
    for number, (event, head, cut, places) in enumerate(items):
        parts = [part for part in (event[:cut], event[cut:]) if part]
        data = b"".join(b"%b\r\n%b\r\n" % ((head % len(part)).encode(), part) for part in parts)
        first, *rest = [piece for piece in cut_at(data, *places) if piece]
        if number in merged and reads:
            reads[-1] += first
        else:
            reads.append(first)
        reads += rest
    return reads


async def relayed(rig: Rig, reads: list[bytes], end: str) -> Reply:
    """Have a stream relayed read by read."""
    async with rig.calling() as (client, upstream):
        await upstream.steady(HI, HI, HI)
        await upstream.reads(*reads)
        if upstream.writer.transport.is_closing():
            pass  # the proxy has seen that it is no HTTP
        elif end == "reset":
            upstream.reset()
        else:
            ends = {"last": LAST, "trailers": b"0\r\nX-A: 1\r\n\r\n"}
            upstream.writer.write(ends.get(end, b""))
            upstream.writer.close()
        return await heard(client)


TAKEN: list[Item] = [(SAID, "%x", 0, [])] * 3


def test_however_a_stream_is_cut_it_is_what_it_is_where_every_read_is_parsed() -> None:
    """Hypothesis tries to find a way in which it is not."""
    with asyncio.Runner(loop_factory=LOOPS["uvloop"]) as runner:
        stack, complaints = contextlib.AsyncExitStack(), listen(runner.get_loop())
        rig = runner.run(stack.enter_async_context(rigged()))

        @settings(max_examples=400)
        @example(items=TAKEN, merged=set(), end="last")
        @given(
            items=st.lists(ITEMS, max_size=9),
            merged=st.just(set()) | st.sets(st.integers(1, 8)),
            end=ENDS,
        )
        def check(items: list[Item], merged: set[int], end: str) -> None:
            reads = reads_of(items, merged)

            async def work() -> None:
                reply = await relayed(rig, reads, end)
                with without_lane():
                    plain = await relayed(rig, reads, end)
                assert (reply.body, reply.end) == (plain.body, plain.end)
                assert reply.events

            runner.run(work())

        try:
            check()
        finally:
            runner.run(stack.aclose())
        assert not complaints
        assert not rig.app.edge.under_way
