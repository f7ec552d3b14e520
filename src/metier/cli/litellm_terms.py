"""What LiteLLM's words mean here: addresses of its providers, names of its parameters, and what replaces the rest."""

from __future__ import annotations

from collections.abc import Mapping

from metier.calls import Operation

__all__ = ["ADDRESSES", "MODES", "RENAMED", "SETTINGS"]

ADDRESSES: Mapping[str, str | None] = {
    "openai": "https://api.openai.com/v1",
    "xai": "https://api.x.ai/v1",
    "deepseek": "https://api.deepseek.com/v1",
    "groq": "https://api.groq.com/openai/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "together_ai": "https://api.together.xyz/v1",
    "fireworks_ai": "https://api.fireworks.ai/inference/v1",
    "perplexity": "https://api.perplexity.ai",
    "cerebras": "https://api.cerebras.ai/v1",
    "nvidia_nim": "https://integrate.api.nvidia.com/v1",
    "scaleway": "https://api.scaleway.ai/v1",
    "ollama": "http://127.0.0.1:11434/v1",
    "ollama_chat": "http://127.0.0.1:11434/v1",
    "lm_studio": "http://127.0.0.1:1234/v1",
    "custom_openai": None,
    "hosted_vllm": None,
    "vllm": None,
    "llamafile": "http://127.0.0.1:8080/v1",
    "azure_ai": None,
    "databricks": None,
    "litellm_proxy": None,
}
"""Providers that speak OpenAI's API, with the address they have when the file gives none; None: it must give one."""

MODES: Mapping[str, Operation] = {
    "chat": "chat",
    "completion": "chat",
    "embedding": "embed",
    "rerank": "rerank",
    "audio_transcription": "transcribe",
    "image_generation": "image",
}
"""`mode` of model_info, as an operation."""

RENAMED: Mapping[str, str] = {
    "api_key": "api_key",
    "api_version": "api_version",
    "tenant_id": "tenant_id",
    "client_id": "client_id",
    "client_secret": "client_secret",
    "organization": "organization",
    "vertex_project": "project",
    "vertex_location": "location",
    "vertex_credentials": "service_account",
    "aws_region_name": "region",
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "rpm": "rpm",
    "tpm": "tpm",
    "weight": "weight",
    "order": "priority",
    "timeout": "timeout_s",
    "request_timeout": "timeout_s",
    "stream_timeout": "first_token_s",
}
"""Parameters of a deployment that have a counterpart: a field, or an option of its provider."""

SETTINGS: Mapping[str, str] = {
    "additional_drop_params": "nothing is dropped silently here: what a model cannot take is refused by name",
    "alerting": "alerts belong to budgets, and go where the section `alerts` says",
    "allowed_fails": "a deployment rests after each failure, twice as long each time, and is probed before it returns",
    "background_health_checks": "the calls themselves show which deployments are well",
    "budget_duration": "budgets are set with metier budget set money AMOUNT --per month",
    "cache": "answers are kept per system: `systems: NAME: {cache: exact}`",
    "cache_params": "the cache is kept in PostgreSQL; Redis is not needed",
    "callbacks": "metrics are at /metrics",
    "cooldown_time": "a deployment rests as long as it asks, or twice as long at each failure",
    "database_url": "set METIER_DATABASE_URL to a PostgreSQL with pgvector; LiteLLM's own tables are not used",
    "default_team_settings": "limits of an organisation, a project, a system or a key: metier budget set",
    "disable_spend_logs": "every call is in the ledger; contents only where somebody decides so: metier calls keep",
    "drop_params": "nothing is dropped silently here: what a model cannot take is refused by name",
    "enable_pre_call_checks": "windows and rights are always checked before a call",
    "environment_variables": "set these variables in the environment of the service",
    "failure_callback": "failed calls are in the ledger: metier usage",
    "guardrails": "personal data is always masked; there is no counterpart of the others yet",
    "json_logs": "logs go to the error output; METIER_LOG_LEVEL says how much",
    "master_key": "there is no master key: issue one key per use with metier key issue",
    "max_budget": "budgets are set with metier budget set money AMOUNT --per month --organisation main",
    "max_parallel_requests": "concurrency is limited for keys, projects and systems: metier budget set",
    "max_request_size_mb": "a request has 8 MiB at most, a file for batches as much as section `batches` says",
    "max_retries": "retries have a budget per model, `retry_percent`, so that no storm is possible",
    "max_tokens": "clients say it; what the deployment can at most is `max_output_tokens`",
    "mcp_servers": "tools belong to workflows",
    "merge_reasoning_content_in_choices": "thoughts are told in reasoning_content",
    "mock_response": "canned answers are for tests: metier.testing",
    "num_retries": "retries have a budget per model, `retry_percent`, so that no storm is possible",
    "output_vector_size": "clients say `dimensions` where the model can do several",
    "redact_messages_in_exceptions": "no log and no error holds what was said",
    "redis_host": "Redis is not needed: workers agree through PostgreSQL",
    "redis_password": "Redis is not needed: workers agree through PostgreSQL",
    "redis_port": "Redis is not needed: workers agree through PostgreSQL",
    "redis_url": "Redis is not needed: workers agree through PostgreSQL",
    "request_timeout": "give deployments a `timeout_s`; 120 seconds without it",
    "routing_strategy": "calls go to the less loaded of two deployments drawn at random; weight and order are kept",
    "set_verbose": "set METIER_LOG_LEVEL=debug",
    "store_model_in_db": "models stand in metier.yaml, which is taken over while calls are answered",
    "success_callback": "every call is in the ledger: metier usage",
    "tags": "rules of a system choose where its calls may go",
    "telemetry": "nothing is sent anywhere",
    "timeout": "give deployments a `timeout_s`; 120 seconds without it",
    "user_api_key_cache_ttl": "a revoked key stops working everywhere within a second",
}
"""What happens instead, for entries that are left out."""
