/* A memory in the making: from request JSON or from what is stored, to record and canonical JSON. */
#ifndef ORC_DRAFT_H
#define ORC_DRAFT_H
#include "api.h"
#include "json/numbers.h"

struct draft {
	struct uuid id;
	bool has_id;
	struct span content, kind, user_id, agent_id, session_id, external_id, ns_given;
	char *metadata; /* compact JSON object text, malloc'ed */
	double importance;
	bool pinned, content_set;
	int64_t created_us, updated_us, expires_us;
	bool created_set, expires_set;
	uint64_t version;	/* given on import, or of what is stored */
	const float *embedding; /* borrowed or own_vector */
	float *own_vector;
	char *own_embedder;
	uint32_t dim;
	bool embedding_set; /* the client sent one (or null) */
	struct span embedder;
	bool client_vector;
	int64_t valid_from_us, valid_to_us;
	struct uuid supersedes, superseded_by;
	bool has_supersedes, has_superseded_by, superseded;
	int64_t replaces_bytes; /* -1: a new memory */
	json_t *keep;		/* what the spans point into */
};

/* Which fields a request may set. */
enum draft_mode {
	DRAFT_ADD,    /* one memory of POST /v1/memories */
	DRAFT_PATCH,  /* RFC 7396: null clears */
	DRAFT_IMPORT, /* an exported line: also id, version, times */
};

/* The JSON of a request body whose embedding arrays were lifted out (json/numbers.h). */
struct body_json {
	json_t *root;
	struct buf text; /* the compacted copy */
	struct floats_found found;
};
/* Parses a request body; false: problem set (400 with the position). */
bool must_check body_json_parse(struct call *c, struct span text, struct body_json *out_r);
void body_json_free(struct body_json *b);

void draft_init(struct draft *d);
void draft_free(struct draft *d);
/* Reads the fields of `o` over d. `where` prefixes field names in messages ("memories[3]."). False: problem set. */
bool must_check draft_read(struct call *c, const struct body_json *b, json_t *o, enum draft_mode mode,
			   const char *where, struct draft *d);
/* Reads the value of an "embedding" field alone, as search does. False: problem set. */
bool must_check draft_read_embedding(struct call *c, const struct body_json *b, json_t *v, struct draft *d);
/* Starts d as a copy of a stored memory (borrows m's spans: m must outlive d). False: its body is not readable. */
bool must_check draft_from_memory(struct draft *d, const struct memory *m);
/* Gives d a vector when it has none and the namespace's space is our embedder's. False: problem set. */
bool must_check draft_embed(struct call *c, struct draft *d, const struct plant_namespace *row, const char *where);
/* The record of d as `version` in namespace ns; its canonical JSON goes to `body` (appended; m.body points there
 * until body grows). */
void draft_memory(const struct draft *d, struct span ns_name, uint64_t version, struct buf *body, struct memory *m_r);
#endif
