/* Framed control messages with fd passing over a SOCK_SEQPACKET socket pair. */
#ifndef ORC_IMSG_H
#define ORC_IMSG_H
#include "vocabulary.h"
#include "util.h"

#define IMSG_MAX 65536

struct imsg {
	uint32_t type;	  /* enum ctl_type */
	uint32_t len;	  /* payload bytes */
	int fd;		  /* -1 or a received descriptor that the receiver now owns */
	const char *data; /* into the caller's buffer */
};

/* Sends one message; `fd` -1 for none (the caller keeps its own). Non-blocking: false and errno
 * EAGAIN when the peer's queue is full, EPIPE when it is gone. */
bool must_check imsg_send(int sock, enum ctl_type type, const void *data, size_t len, int fd);
/* Receives one message into buf (IMSG_MAX + 8 bytes). 1 = got one, 0 = peer closed, -1 = errno
 * (EAGAIN: none now; EPROTO: malformed). */
int must_check imsg_recv(int sock, char *buf, struct imsg *m_r);
#endif
