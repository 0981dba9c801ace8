import pytest
from toy_sizes import TOY, finite_numbers

from tinyllama.bench import as_json
from tinyllama.bench.decoding import PROMPT, WARM_UP, profile_decoding


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_writing_is_measured(backend, weights):
    profile = profile_decoding(TOY, weights=weights, backend=backend.name, rounds=2, array_bytes=2**16)
    assert (profile.backend, profile.weights, len(profile.times)) == (backend.name, weights, 2)
    facts = as_json.decoding_as_json(profile)
    assert set(finite_numbers(facts)) == {
        "/tokens_per_second", "/token_ms", "/weight_mb", "/keys_and_values_mb", "/weights_gb_per_second",
        "/read_gb_per_second", "/share_of_memory"}
    assert facts["tokens_per_second"] * facts["token_ms"] == pytest.approx(1e3)


def test_the_share_compares_each_round_with_the_reading_beside_it():
    profile = profile_decoding(TOY, backend="numpy", rounds=1, array_bytes=2**16)
    assert profile._replace(weight_bytes=12, times=[1.0, 2.0, 3.0], read_rates=[24.0, 24.0, 4.0]).share_of_memory == 0.5


def test_the_keys_and_values_are_those_of_the_mean_length(backend):
    profile = profile_decoding(TOY, backend=backend.name, rounds=1, array_bytes=2**16)
    last = TOY.context              # tokens are written until the context is full
    written = last - PROMPT - WARM_UP
    bytes_a_token = 2 * TOY.layers * TOY.hidden_size * 4
    assert profile.cache_bytes == bytes_a_token * (PROMPT + WARM_UP + written / 2)


def test_int8_reads_about_a_quarter():
    full, quarter = (profile_decoding(TOY, weights=weights, backend="numpy", rounds=1, array_bytes=2**16).weight_bytes
                     for weights in ("float32", "int8"))
    assert 0.25 < quarter / full < 0.45     # at this size the scales and norms count
