"""13. Serving: an OpenAI-compatible HTTP API and a chat page for one model.

    api_error.py             errors in OpenAI's format
    request_validation.py    unknown fields, messages that name the invalid one
    protocol.py              request schemas: sampling, completions, embeddings, tokens
    chat_protocol.py         request schemas: messages, tools
    responses_protocol.py    request schemas: responses
    request_body.py          limits of request bodies
    engine_thread.py         the thread that runs the generation engine
    completion_choices.py    engine outputs accumulated into choices
    tool_calls.py            tool calls in the text of an answer
    answer_grammar.py        JSON schemas, other forms and forced calls as grammars
    response_format.py       completions, chats and embeddings as JSON
    responses_format.py      responses and their events as JSON
    event_stream.py          server-sent events, cancellation when the client disconnects
    prometheus.py            metrics
    api_keys.py              API keys, rotated without a restart
    rate_limits.py           requests and tokens a minute
    request_log.py           request ids, a line of the log for each request
    served_model.py          one model under a name: prompts, limits, answers
    prompt_scores.py         log-probabilities of prompts
    beam_answers.py          answers by beam search
    endpoints.py             HTTP endpoints
    middleware.py            security headers, metrics, trusted hosts, API keys, rate limits
    openapi_responses.py     schemas of the responses
    openapi.py               the OpenAPI description and its page
    connection.py            limits of connections
    conversation_starters.py messages that the page offers
    page_files.py            the files of the chat page
    app.py                   the ASGI application
    server.py                the application on a socket
    chat_page/               HTML, CSS and JavaScript without a build step; `vendor`: its libraries

Deliberately absent: a stage (serving writes no artifact); accounts and stored conversations; images and sounds, which are
refused with an error.
"""

from groundup.serve.app import create_app
from groundup.serve.server import serve

__all__ = ["create_app", "serve"]
