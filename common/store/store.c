#include "store/store.h"

extern const struct store_ops sqlite_store, postgres_store;

const struct store_ops *store_by_kind(const char *kind)
{
	return strcmp(kind, "sqlite") == 0 ? &sqlite_store : strcmp(kind, "postgres") == 0 ? &postgres_store : NULL;
}

bool store_same_content(void *arg, const struct memory *m)
{
	struct store_same_content *c = arg;
	if (!span_eq(m->content, c->want))
		return true; /* another text with the same key */
	c->found = true;
	return c->fn(c->arg, m);
}

void store_conf_from(const struct conf *c, const char *purpose, struct store_conf *out_r)
{
	*out_r = (struct store_conf){.kind = conf_str(c, CONF_STORE_KIND),
				     .dsn = conf_str(c, CONF_STORE_DSN),
				     .dir = conf_str(c, CONF_DATA_DIR),
				     .purpose = purpose,
				     .copy_min = (uint64_t)conf_int(c, CONF_STORE_COPY_MIN),
				     .connect_timeout_us = conf_int(c, CONF_STORE_CONNECT_TIMEOUT),
				     .migrate = strcmp(conf_str(c, CONF_STORE_MIGRATE), "auto") == 0,
				     .answer_timeout_us = conf_int(c, CONF_STORE_ANSWER_TIMEOUT)};
}
