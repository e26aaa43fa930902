/* Pieces of workers/api without the worker around them: a test includes this, and then the .c files it is about.
 * It stands in for workers/api/api.h with the few members that those files use; what they call and the test does
 * not include, the test defines itself. */
#ifndef ORC_API_H
#define ORC_API_H
#include <jansson.h>

#include "auth.h"
#include "embed/embed.h"
#include "http/http.h"
#include "../../workers/api/reader.h"
#include "record.h"
#include "vocabulary.h"

struct api {
	struct plant *plant;
	const struct embedder *embedder;
	bool errors_full;
};
struct reply {
	int status;
	const char *content_type;
	struct buf head, body;
};
enum verdict { CALL_REPLY, CALL_COMMIT, CALL_THREAD };
struct call {
	struct api *api;
	struct http_request *req;
	struct reply reply;
	bool erase, wait_store;
	void *state;
	void (*free_state)(void *state);
};

void problem(struct call *c, int status, const char *type, const char *fmt, ...) printf_like(4, 5);
void problem_write(struct buf *b, int status, const char *type, const char *detail, struct span request_id);
void problem_store(struct call *c, const char *internal);
void problem_starting(struct call *c);
void json_out_string(struct buf *b, struct span s);
void json_out_time(struct buf *b, int64_t us);
void json_out_double(struct buf *b, double d);
void call_read(struct call *c, void (*read)(struct call *, struct reader *));
void call_write(struct call *c, enum verdict (*evaluate)(struct call *, struct reader *), bool inline_ok);
void call_reply(struct call *c);
uint64_t call_read_seq(const struct call *c);
void call_txn_begin(struct call *c, struct txn_builder *t, uint64_t read_seq, uint32_t flags);
bool must_check call_namespace(struct call *c, struct span given, unsigned right, char out[LIMIT_NAMESPACE + 1], struct span *name_r);
bool must_check call_wait(struct call *c);
bool call_may(const struct call *c, unsigned right, struct span ns);
#endif
