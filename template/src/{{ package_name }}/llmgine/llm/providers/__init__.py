# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""One module per provider; each is imported when a model of it is first asked."""
