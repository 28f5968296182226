# generated: edit _async and run scripts/unasync.py
"""The blocking client, generated from the one for asyncio in `_async`."""
