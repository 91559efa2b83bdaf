# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The ways into a running application: each is handed `bootstrap()` and sends the same commands."""
