"""An event-driven LLM application. Start reading at bootstrap.py. This file is yours."""
