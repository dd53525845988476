"""The server: models behind the routes of OpenAI, and behind one route for each task."""
