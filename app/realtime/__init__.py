"""Live transcription: sessions of OpenAI's realtime protocol, from the audio of a client to the events it receives."""
