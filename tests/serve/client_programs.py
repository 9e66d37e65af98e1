"""Three client programs with a URL, a key and nothing else: python client_programs.py URL KEY. Prints what each found as JSON."""

import asyncio
import json
import sys

import httpx


def openai_program(url: str, key: str) -> dict:
    from openai import AsyncOpenAI, OpenAI

    client = OpenAI(base_url=url, api_key=key, max_retries=0)
    model = client.models.list().data[0].id
    asked = {"model": model, "messages": [{"role": "user", "content": "2 + 3?"}], "temperature": 0}

    async def many() -> list[str]:
        async with AsyncOpenAI(base_url=url, api_key=key) as each:
            answers = await asyncio.gather(*(each.chat.completions.create(**asked) for _ in range(8)))
            return [answer.choices[0].message.content for answer in answers]

    parts = [part for part in client.chat.completions.create(**asked, stream=True) if part.choices]
    return {
        "model": model,
        "streamed": "".join(part.choices[0].delta.content or "" for part in parts),
        "answers": asyncio.run(many()),
    }


def langchain_program(url: str, key: str) -> dict:
    from langchain_core.messages import ToolMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    @tool
    def add(a: int, b: int) -> int:
        """The sum of two numbers."""
        return a + b

    model = ChatOpenAI(base_url=url, api_key=key, model="m", temperature=0).bind_tools([add])
    messages = [("human", "2 + 3?")]
    asked = model.invoke(messages)
    results = [ToolMessage(str(add.invoke(call["args"])), tool_call_id=call["id"]) for call in asked.tool_calls]
    answer = model.invoke([*messages, asked, *results])
    embeddings = OpenAIEmbeddings(base_url=url, api_key=key, model="m", check_embedding_ctx_length=False)
    return {
        "calls": [call["args"] for call in asked.tool_calls],
        "answer": answer.content,
        "streamed": "".join(chunk.content for chunk in model.stream(messages)),
        "width": len(embeddings.embed_query("hello")),
    }


def litellm_program(url: str, key: str) -> dict:
    import litellm

    litellm.telemetry = False
    common = {"model": "openai/m", "api_base": url, "api_key": key}
    asked = {**common, "messages": [{"role": "user", "content": "2 + 3?"}], "temperature": 0}
    whole = litellm.completion(**asked)
    parts = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    vector = litellm.embedding(**common, input=["hello"]).data[0]["embedding"]
    return {
        "answer": whole.choices[0].message.content,
        "streamed": "".join(part.choices[0].delta.content or "" for part in parts if part.choices),
        "tokens": whole.usage.completion_tokens,
        "width": len(vector),
    }


def open_webui_calls(url: str, key: str) -> dict:
    """What Open WebUI sends to an OpenAI connection: the list of models, then a stream."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    models = httpx.get(f"{url}/models", headers=headers).json()["data"]
    body = {
        "model": models[0]["id"],
        "messages": [{"role": "user", "content": "2 + 3?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
    }
    text = ""
    with httpx.stream("POST", f"{url}/chat/completions", headers=headers, json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                text += "".join(each["delta"].get("content") or "" for each in json.loads(line[6:])["choices"])
    return {"streamed": text, "status": response.status_code}


if __name__ == "__main__":
    url, key = sys.argv[1:]
    programs = (openai_program, langchain_program, litellm_program, open_webui_calls)
    print(json.dumps({program.__name__: program(url, key) for program in programs}))
