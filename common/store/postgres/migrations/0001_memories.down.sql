DROP TABLE memory_feed, memory_changes, memory_nodes, memory_idempotency, memory_namespaces, memory_history, memory_trash, memories;
DROP SEQUENCE memory_revision;
