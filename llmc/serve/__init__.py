"""A trained model over HTTP for OpenAI's clients, and a page to try it.

``schema`` and ``chat_schema`` have the requests and answers, ``guard`` decides which requests are
answered. ``completions`` and ``chat`` are the endpoints, with what they share in ``endpoint``.
``batch`` runs requests together in the engine; ``choices`` and ``answers`` make answers of tokens.
``app`` has the routes, ``connection`` the timeouts, ``server`` starts and stops it all.
"""
