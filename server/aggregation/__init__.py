"""From checked replies to the next global weights. Nothing here sends or receives."""
