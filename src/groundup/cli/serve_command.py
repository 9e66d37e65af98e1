"""`groundup serve`: a model over HTTP."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import PROGRESS_KINDS
from groundup.cli.model_check import open_for_text, open_proposer
from groundup.cli.options import (
    DeterministicOption,
    DeviceOption,
    DraftOption,
    DtypeOption,
    KvBitsOption,
    ModelArgument,
    PromptLookupOption,
    VerifyOption,
)
from groundup.recipe.output_config import size_in_bytes

T = TypeVar("T")


def serve(
    model: ModelArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of the model in requests and answers; repeated: other names of it. Default: that of the folder."
        ),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar="GROUNDUP_API_KEY",
            help="Key that requests must send; may be repeated, in the environment with spaces between. Safer there than here.",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="File of API keys, one a line, alone or after a name; read again when it changes."),
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Requests that a client may send in a minute: a key, else an address.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Tokens of prompts and answers that a client may use in a minute.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Web site whose pages may use the server, such as https://app.example; may be repeated.",
        ),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address or network of a reverse proxy, whose X-Forwarded-For names the client; may be repeated.",
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate chain for HTTPS, PEM; needs --tls-key.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Key of the certificate, PEM.")] = None,
    log: Annotated[
        str | None, typer.Option(metavar="json|text", help="Log a line for each request on standard error.")
    ] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Log prompts and answers too.")] = False,
    kv_bits: KvBitsOption = None,
    deterministic: DeterministicOption = False,
    draft: DraftOption = None,
    prompt_lookup: PromptLookupOption = False,
    kv_cache_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory for keys and values of earlier tokens, such as 2GB, a quarter of it for a draft. Default: as requests "
            "need, up to half of the free memory.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR",
            help="Adapter to serve beside MODEL, which requests choose as their model; may be repeated.",
        ),
    ] = None,
    trace: Annotated[
        bool,
        typer.Option(
            "--trace",
            help="Of a run: let clients see where an answer stands word for word in the training text, with its passages.",
        ),
    ] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Name of this server that requests without a key may use; may be repeated.")
    ] = None,
    verify: VerifyOption = True,
) -> None:
    """Serve a model over HTTP: OpenAI's API under /v1, a chat page at /.

    Example: groundup serve runs/quickstart --port 8000

    Example: groundup serve runs/quickstart --trace
    """
    from groundup.evaluate.trace import open_tracer
    from groundup.interop.adapters import adapter_tokenizer, with_adapter
    from groundup.interop.model_loading import as_trained, resolve_model_path
    from groundup.serve.api_keys import ApiKeys
    from groundup.serve.app import MAX_BATCH
    from groundup.serve.conversation_starters import conversation_starters
    from groundup.serve.rate_limits import RateLimits
    from groundup.serve.request_log import RequestLog
    from groundup.serve.server import serve as serve_forever

    cache_memory = None if kv_cache_memory is None else size_in_bytes(kv_cache_memory, "--kv-cache-memory")
    if log not in (None, "json", "text"):
        raise UserError(f"--log {log}, expected json or text")
    if log_prompts and log is None:
        raise UserError("--log-prompts without --log", hint="--log json, or --log text")
    if (tls_certificate is None) != (tls_key is None):
        raise UserError("--tls-certificate and --tls-key belong together", hint="give both, or none")
    certificate = (tls_certificate, tls_key) if tls_certificate and tls_key else None
    keys = ApiKeys(api_key or (), api_key_file) if api_key or api_key_file else None
    if keys is None and "GROUNDUP_API_KEY" in os.environ:
        raise UserError("GROUNDUP_API_KEY is empty, expected a key", hint="unset it for a server without a key")
    limits = RateLimits(requests_per_minute, tokens_per_minute) if requests_per_minute or tokens_per_minute else None
    tracer = open_tracer(model, progress=PROGRESS_KINDS["auto"]()) if trace else None
    network, tokenizer = in_ended_thread(
        open_for_text, model, device, dtype, verify, kv_bits=kv_bits, deterministic=deterministic
    )
    if draft is not None and cache_memory is not None:
        cache_memory, draft_memory = cache_memory * 3 // 4, cache_memory // 4
    else:
        draft_memory = None
    proposer = in_ended_thread(
        open_proposer,
        network,
        tokenizer,
        draft,
        prompt_lookup,
        (device, dtype, verify),
        max_batch=MAX_BATCH,
        cache_memory=draft_memory,
    )
    served_name, *aliases = name or [model.resolve().name]
    adapters, starters = {}, {served_name: conversation_starters(model)}
    for option in adapter or []:
        served, _, folder = option.rpartition("=")
        served = served or Path(folder).resolve().name
        if served in (served_name, *aliases, *adapters):
            raise UserError(
                f"--adapter {option}: the name {served} is taken", hint="--adapter NAME=DIR gives another one"
            )
        starters[served] = conversation_starters(Path(folder))
        adapters[served] = (
            with_adapter(network, Path(folder), verify=verify),
            adapter_tokenizer(Path(folder), tokenizer),
        )
    serve_forever(
        network,
        as_trained(resolve_model_path(model), tokenizer),
        name=served_name,
        aliases=aliases,
        host=host,
        port=port,
        api_key=keys,
        limits=limits,
        cors_origins=cors_origin or (),
        certificate=certificate,
        log=RequestLog(log, prompts=log_prompts) if log else None,
        adapters=adapters,
        cache_memory=cache_memory,
        proposer=proposer,
        starters=starters,
        tracer=tracer,
        allowed_hosts=[name.lower() for name in allow_host or ()],
        trusted_proxies=trusted_proxy or (),
    )


def in_ended_thread(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """The result of a function that ran in a thread of its own, which has ended, and with it its team of OpenMP threads.

    A team of this thread beside that of the engine would be more threads than cores, and OpenMP then lets no thread wait
    actively: prompts of 64 to 128 tokens took 1.5 to 1.8 times as long (SmolLM2-135M, two cores).
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments, **options).result()
