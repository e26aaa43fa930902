DROP FUNCTION memory_prune, memory_publish, memory_namespace_drop, memory_namespace_put, memory_delete, memory_put;
