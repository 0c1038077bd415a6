"""A loopback provider's faults over time and by share."""

from __future__ import annotations

import math
from collections import Counter

import httpx

from resilience.testing import Fault, LoopbackProvider, Schedule

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_a_schedule_of_faults_is_followed_on_the_wire() -> None:
    with LoopbackProvider() as provider, httpx.Client() as client:

        def status() -> int:
            return client.post(f"{provider.openai_base}/chat/completions", json=ASK).status_code

        provider.set(Schedule(((math.inf, Fault.http(503)),)))
        assert status() == 503
        provider.set(Schedule(((1e-9, Fault.http(503)), (math.inf, Fault.http(429)))))
        assert status() == 429
        provider.set(Schedule(((1e-9, Fault.http(503)),)))
        assert status() == 200


def test_a_brownout_is_late_for_all_and_lost_for_some() -> None:
    provider = LoopbackProvider()
    provider.set(Fault.brownout(0.2, 1, of=5))
    picked = Counter(provider._pick("m").name for _ in range(20))
    assert picked == {"brownout 1/5": 4, "slow": 16}
