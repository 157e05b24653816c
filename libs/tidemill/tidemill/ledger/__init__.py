"""Conservation counts and the digest of decisions, read from durable rows and topics, never from memory."""
