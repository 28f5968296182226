"""The streams: one loop that sends, and for each kind of stream a cursor that it sends from."""
