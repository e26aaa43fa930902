/* libpq, loaded when a store of that kind is opened: linking it would cost every start 4 ms and every process a
 * megabyte of private memory for libraries that it brings along (LDAP, Kerberos) and SQLite's users never need. */
#ifndef ORC_PQ_H
#define ORC_PQ_H
#include <libpq-fe.h>
#include <stdbool.h>

/* clang-format off */
#define PQ_FUNCTIONS(F) \
	F(clear) F(cmdTuples) F(conninfoFree) F(conninfoParse) F(connectPoll) F(connectStartParams) F(consumeInput) \
	F(enterPipelineMode) F(errorMessage) F(finish) F(flush) F(fformat) F(freemem) F(getisnull) F(getlength) \
	F(getResult) F(getvalue) F(hostaddr) F(isBusy) F(notifies) F(nfields) F(ntuples) F(parameterStatus) \
	F(pipelineSync) F(putCopyData) F(putCopyEnd) F(resultErrorField) F(resultErrorMessage) F(resultStatus) \
	F(sendFlushRequest) F(sendPrepare) F(sendQuery) F(sendQueryParams) F(sendQueryPrepared) F(serverVersion) \
	F(setnonblocking) \
	F(setNoticeReceiver) F(socket) F(status) F(exitPipelineMode)
/* clang-format on */

/* The functions without their prefix: pq.getvalue is PQgetvalue. */
extern struct pq_library {
	void *handle;
#define F(name) __typeof__(PQ##name) *name;
	PQ_FUNCTIONS(F)
#undef F
} pq;

/* Loads it once; any thread. False: *error_r (malloc'ed) names the package that is missing. */
bool pq_load(char **error_r) __attribute__((warn_unused_result));
#endif
