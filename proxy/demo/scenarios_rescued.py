"""Scenarios of answers that break after content, and of what can be had of them all the same.

Asked plainly they all end in an honest error. Knows names, faults, expectations and the way of
asking by which the answer is rescued. What follows a break is in ``rescues``.
"""

from __future__ import annotations

from proxy.demo import misbehaviour as do
from proxy.demo import misbehaviour_errors as fail
from proxy.demo import rescues
from proxy.demo.scenario import CHAT, RESPONSES, Scenario

RESCUED = (
    Scenario(
        "ws-cut-mid-answer-once",
        "clean_eof",
        "honest error",
        do.stopped("clean"),
        "The body ends cleanly after some content; the next attempt says the same in other pieces.",
        when="first",
        then=rescues.in_other_pieces,
        rescue="cold",
    ),
    Scenario(
        "ws-reset-mid-answer-once",
        "reset",
        "honest error",
        do.stopped("reset"),
        "The connection is reset after some content; the next attempt says the same in other"
        " pieces.",
        when="first",
        then=rescues.in_other_pieces,
        rescue="cold",
    ),
    Scenario(
        "ws-stall-mid-answer-once",
        "stall",
        "honest error",
        do.stopped("hold"),
        "The stream falls silent after some content; the next attempt says the same in other"
        " pieces.",
        when="first",
        then=rescues.in_other_pieces,
        rescue="cold",
    ),
    Scenario(
        "ws-error-mid-answer-once",
        "in_stream_error",
        "honest error",
        fail.told_error("server_error", fail.WORKER_DIED, "server_error", given=do.GIVEN),
        "An error event after some content; the next attempt says the same in other pieces.",
        when="first",
        then=rescues.in_other_pieces,
        rescue="cold",
    ),
    Scenario(
        "ws-other-words-once",
        "clean_eof",
        "honest error",
        do.stopped("clean"),
        "The body ends cleanly after some content; the next attempt says something else.",
        when="first",
        then=rescues.in_other_words,
    ),
    Scenario(
        "ws-background-cut-once",
        "cut_between_events",
        "honest error",
        rescues.torn("fin"),
        "The connection closes after some content; a background response runs on, and its stream"
        " can be asked for again.",
        when="first",
        endpoints=RESPONSES,
        rescue="background",
    ),
    Scenario(
        "ws-background-window-closed",
        "clean_eof",
        "honest error",
        rescues.torn("clean", rescues.window_closed),
        "The body ends cleanly after some content; a background response runs on, but is only"
        " to be had as a whole.",
        endpoints=RESPONSES,
        rescue="background",
    ),
    Scenario(
        "ws-prefill-rejected",
        "clean_eof",
        "honest error",
        fail.prefill_rejected,
        "The body ends cleanly after some content; a request that has the beginning of the answer"
        " in it is refused.",
        endpoints=CHAT,
    ),
)
