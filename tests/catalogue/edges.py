"""Faults outside of a stream's bytes: time, reads and writes, compression, types, who leaves.

Knows which tests show them on real sockets. Where the bytes tell something as well, that is told.
"""

from __future__ import annotations

from support import ANSWER, ROLE, sse

from catalogue.tale import BEGUN, Case, Part, breaks, passes, restarted, says

EDGES = (
    Case(
        *(3, "healthy-silence-idle-kill"),
        alike={"an answer that is not silent": passes(ANSWER)},
        tests=(
            "tests/e2e/test_timed_commit.py::test_a_silent_upstream_is_bridged_by_a_200_and_heartbeats",
            "tests/edge/test_clocks.py::test_the_first_event_and_the_next_have_limits_of_their_own",
        ),
        alike_tests=(
            "tests/e2e/test_timed_commit.py::test_heartbeats_stand_between_events_only_and_after_silence_only",
        ),
    ),
    Case(
        *(5, "intermediary-buffering"),
        alike={"an answer in one read": passes(ANSWER)},
        tests=(
            "tests/e2e/test_latency_and_leaving.py::test_every_event_is_written_when_it_arrives",
            "tests/edge/test_downstream.py::test_a_stream_has_the_headers_of_the_contract",
        ),
    ),
    Case(
        *(6, "rechunk-split-json"),
        {"an answer in reads of any size": passes(ANSWER)},
        {"borders of events as text": passes(says('{"a":\n\n1}\n\ndata: '))},
        tests=(
            "tests/e2e/test_recorded_streams.py::test_a_stream_byte_by_byte_arrives_unchanged_and_is_counted_once",
            "tests/e2e/test_recorded_streams.py::test_a_stream_in_random_pieces_arrives_unchanged_and_is_counted_once",
        ),
    ),
    Case(
        *(19, "premature-close-false-positive"),
        alike={"the last chunk as text": passes(says("0\r\n\r\n"))},
        tests=(
            "tests/e2e/test_catalogue_edges.py::test_the_last_event_and_the_end_of_the_body_are_one_segment",
        ),
        alike_tests=(
            "tests/e2e/test_catalogue_edges.py::test_a_last_chunk_that_comes_byte_by_byte_is_an_end_like_any_other",
        ),
    ),
    Case(
        *(24, "client-gone-upstream-runs"),
        tests=(
            "tests/e2e/test_latency_and_leaving.py::test_the_upstream_connection_is_closed_when_the_client_leaves",
            "tests/e2e/test_latency_and_leaving.py::test_no_attempt_is_made_for_a_client_that_left_in_the_back_off",
        ),
        alike_tests=(
            "tests/e2e/test_latency_and_leaving.py::test_a_background_response_is_left_alone_when_its_client_leaves",
        ),
    ),
    Case(
        *(29, "gzip-sse"),
        alike={"the first bytes of gzip as text": passes(says("\x1f\x8b"))},
        tests=(
            "tests/e2e/test_catalogue_forms.py::test_a_compressed_stream_is_decoded",
            "tests/edge/test_decoding.py::test_each_event_comes_out_when_it_is_flushed",
        ),
        alike_tests=(
            "tests/e2e/test_catalogue_forms.py::test_a_stream_that_is_said_not_to_be_compressed_is_not",
            "tests/e2e/test_passthrough.py::test_compressed_json_passes_untouched",
        ),
    ),
    Case(
        *(31, "wrong-content-type"),
        tests=(
            "tests/e2e/test_catalogue_forms.py::test_a_stream_that_calls_itself_something_else_is_one",
        ),
        alike_tests=(
            "tests/e2e/test_catalogue_forms.py::test_a_type_in_another_spelling_is_the_right_one",
            "tests/e2e/test_http_edges.py::test_an_answer_that_is_never_an_event_stream_passes_where_nothing_else_is_known",
        ),
    ),
    Case(
        *(45, "slow-reader"),
        tests=(
            "tests/e2e/test_latency_and_leaving.py::test_a_client_that_does_not_read_holds_up_the_upstream_and_costs_no_memory",
            "tests/e2e/test_latency_and_leaving.py::test_others_are_served_while_many_clients_do_not_read",
        ),
        alike_tests=(
            "tests/e2e/test_latency_and_leaving.py::test_a_slow_client_is_not_taken_for_a_stalled_upstream",
        ),
    ),
    Case(
        *(46, "writer-on-closed-transport"),
        tests=(
            "tests/e2e/test_catalogue_edges.py::test_a_client_that_leaves_while_it_is_written_to_is_no_error",
        ),
        alike_tests=(
            "tests/e2e/test_catalogue_edges.py::test_a_client_that_reads_slowly_has_all_of_it_in_the_end",
        ),
    ),
    Case(
        *(63, "truncated-gzip"),
        {
            "as far as it could be decoded": breaks(BEGUN, BEGUN, "clean_eof"),
            "inside of an event": breaks(BEGUN + b'data: {"id', BEGUN, "cut_mid_event"),
            "before content": restarted(Part(sse(ROLE)), "clean_eof", ANSWER),
        },
        tests=(
            "tests/e2e/test_catalogue_forms.py::test_a_compressed_stream_that_is_cut_is_an_honest_error",
            "tests/edge/test_decoding.py::test_a_body_that_is_cut_short_comes_out_as_far_as_it_came",
        ),
        alike_tests=(
            "tests/e2e/test_catalogue_forms.py::test_a_compressed_stream_without_its_checksum_is_whole_where_its_answer_is",
        ),
    ),
)
