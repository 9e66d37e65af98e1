"""`groundup serve`: a model over HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from groundup.artifacts.errors import UserError
from groundup.cli.model_check import open_for_text
from groundup.cli.options import DeviceOption, KvBitsOption, ModelArgument, VerifyOption
from groundup.recipe.output_config import size_in_bytes


def serve(
    model: ModelArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="GROUNDUP_API_KEY", help="Key that requests must send; safer in the environment than here."
        ),
    ] = None,
    kv_bits: KvBitsOption = None,
    kv_cache_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory for keys and values of earlier tokens, such as 2GB. Default: as requests need, up to half of the "
            "free memory.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR",
            help="Adapter to serve beside MODEL, which requests choose as their model; may be repeated.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Name of this server that requests without a key may use; may be repeated.")
    ] = None,
    verify: VerifyOption = True,
) -> None:
    """Serve a model over HTTP: OpenAI's API under /v1, a chat page at /.

    Example: groundup serve runs/quickstart --port 8000
    """
    from groundup.interop.adapters import adapter_tokenizer, with_adapter
    from groundup.serve.conversation_starters import conversation_starters
    from groundup.serve.server import serve as serve_forever

    cache_memory = None if kv_cache_memory is None else size_in_bytes(kv_cache_memory, "--kv-cache-memory")
    network, tokenizer = open_for_text(model, device, verify, kv_bits=kv_bits)
    name = model.resolve().name
    adapters, starters = {}, {name: conversation_starters(model)}
    for option in adapter or []:
        served, _, folder = option.rpartition("=")
        served = served or Path(folder).resolve().name
        if served in (name, *adapters):
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
        tokenizer,
        name=name,
        host=host,
        port=port,
        api_key=api_key,
        adapters=adapters,
        cache_memory=cache_memory,
        starters=starters,
        allowed_hosts=[name.lower() for name in allow_host or ()],
    )
