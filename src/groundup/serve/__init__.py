"""13. Answering: a model over HTTP, as OpenAI's API has it, with a page to chat on.

Reading order: `errors` and `protocol` (what may be asked), `worker` (the thread of the model), `answer`
(events to text), `shape` (text to JSON), `body` and `leaving` (clients that are slow, or leave), `metrics`,
`endpoints`, `guard` (keys, hosts, headers), `app` (all of it), `server` (on a socket), `page/` (the chat
page: no build step, nothing from elsewhere).

Deliberately absent: a stage (serving makes no artifact), CORS, TLS and accounts (a proxy's matter), and
tools,
images and several choices: who asks for these is told so.
"""

from groundup.serve.app import create_app

__all__ = ["create_app"]
