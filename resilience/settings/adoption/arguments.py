"""The arguments of a LiteLLM Router, as a table: which have a counterpart here. Held against LiteLLM by a test."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MAPPED = frozenset(
    {
        "allowed_fails",
        "allowed_fails_policy",
        "content_policy_fallbacks",
        "context_window_fallbacks",
        "cooldown_time",
        "default_fallbacks",
        "default_litellm_params",
        "disable_cooldowns",
        "enable_weighted_failover",  # the next target of a group comes before the next group anyway
        "max_fallbacks",
        "model_group_alias",
        "model_group_retry_policy",
        "num_retries",
        "retry_policy",
        "routing_strategy",
        "stream_timeout",
        "timeout",
    }
)

# With the value that says nothing, where that is not None, False, 0 or empty.
WITHOUT_COUNTERPART: Mapping[str, Any] = MappingProxyType(
    {
        "alerting_config": None,
        "assistants_config": None,
        "auto_router_capability_limit": None,
        "background_health_check_model_groups": None,
        "cache_kwargs": None,
        "cache_responses": None,
        "caching_groups": None,
        "client_ttl": 3600,
        "debug_level": "INFO",
        "default_max_parallel_requests": None,
        "default_priority": None,
        "deployment_affinity_ttl_seconds": 3600,
        "enable_health_check_routing": None,
        "enable_mid_stream_fallback_continuation": None,
        "enable_pre_call_checks": None,
        "enable_tag_filtering": None,
        "fallback_access_check": None,
        "fallback_budget_check": None,
        "fallback_on_unsupported_params": True,
        "guardrail_list": None,
        "health_check_ignore_transient_errors": None,
        "health_check_staleness_threshold": None,
        "ignore_invalid_deployments": None,
        "model_group_affinity_config": None,
        "optional_pre_call_checks": None,
        "plugins": None,
        "polling_interval": None,
        "provider_budget_config": None,
        "redis_db": None,
        "redis_host": None,
        "redis_password": None,
        "redis_port": None,
        "redis_url": None,
        "retry_after": None,
        "router_general_settings": None,
        "routing_groups": None,
        "routing_strategy_args": None,
        "search_tools": None,
        "session_affinity_repin_on_failover": None,
        "set_verbose": None,
        "tag_filtering_match_any": True,
        "tag_routing_prefix": None,
    }
)

STRATEGIES = (
    "simple-shuffle",
    "least-busy",
    "usage-based-routing",
    "usage-based-routing-v2",
    "latency-based-routing",
    "cost-based-routing",
    "provider-budget-routing",
    "lar1",
)

# A RetryPolicy's keys: kinds that may be tried on the same target again, and kinds that our table decides.
RETRIES_COUNTED = frozenset({"InternalServerErrorRetries", "ServiceUnavailableErrorRetries", "DefaultRetries"})
RETRIES_DECIDED = frozenset(
    {
        "AuthenticationErrorRetries",
        "BadRequestErrorRetries",
        "ContentPolicyViolationErrorRetries",
        "NotFoundErrorRetries",
        "RateLimitErrorRetries",
        "TimeoutErrorRetries",
    }
)

# An AllowedFailsPolicy's keys: kinds that count as failures of a target, and kinds that our table decides.
ALLOWED_FAILS_COUNTED = frozenset(
    {
        "BadGatewayErrorAllowedFails",
        "InternalServerErrorAllowedFails",
        "ServiceUnavailableErrorAllowedFails",
        "TimeoutErrorAllowedFails",
    }
)
ALLOWED_FAILS_DECIDED = frozenset(
    {
        "AuthenticationErrorAllowedFails",
        "BadRequestErrorAllowedFails",
        "ContentPolicyViolationErrorAllowedFails",
        "NotFoundErrorAllowedFails",
        "RateLimitErrorAllowedFails",
    }
)
