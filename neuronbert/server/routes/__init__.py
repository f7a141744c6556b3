"""The routes of a server, a module for each protocol: what comes in as pydantic models, what goes out as bytes."""
