#include "shm.h"
#include "tls_files.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define PACK_MAGIC 0x31736c7463726fULL /* "orctls1" */

struct pack_head {
	uint64_t magic;
	uint32_t len[TLS_FILE_COUNT];
	unsigned char ticket[TLS_TICKET_BYTES];
};

static const enum conf_key keys[TLS_FILE_COUNT] = {CONF_TLS_CERTIFICATE, CONF_TLS_KEY, CONF_TLS_CLIENT_CA};

const char *tls_files_key(enum tls_file i) { return conf_key_name(keys[i]); }

static bool fail(char **error_r, enum tls_file i, const char *path, const char *why)
{
	if (asprintf(error_r, "%s: %s: %s", tls_files_key(i), path, why) == -1)
		*error_r = NULL;
	return false;
}

/* All at once into memory of the right size: what grows leaves copies of the key behind. */
static bool read_exactly(int fd, struct buf *b, size_t size)
{
	buf_reserve(b, size + 1);
	while (b->len < size) {
		ssize_t n = pread(fd, b->p + b->len, size - b->len, (off_t)b->len);
		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0) {
			errno = n == 0 ? EAGAIN : errno; /* it became shorter meanwhile */
			return false;
		}
		b->len += (size_t)n;
	}
	return true;
}

static bool read_file(enum tls_file i, const char *path, struct buf *b, char **error_r)
{
	struct stat st;
	const char *why = NULL;
	/* O_NONBLOCK: the open of a FIFO must not wait for a writer. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd == -1 || fstat(fd, &st) == -1)
		why = strerror(errno);
	else if (!S_ISREG(st.st_mode))
		why = "is no file";
	else if (st.st_size > TLS_FILE_MAX)
		why = "is larger than 1 MiB";
	else if (!read_exactly(fd, b, (size_t)st.st_size))
		why = strerror(errno);
	if (fd != -1)
		close(fd);
	return !why || fail(error_r, i, path, why);
}

bool tls_files_read(const struct conf *c, struct tls_files *f_r, char **error_r)
{
	*f_r = (struct tls_files){0};
	for (enum tls_file i = 0; i < TLS_FILE_COUNT; i++) {
		f_r->file[i].path = conf_str(c, keys[i]);
		if (*f_r->file[i].path && !read_file(i, f_r->file[i].path, &f_r->file[i].pem, error_r))
			return false;
	}
	if (getrandom(f_r->ticket, sizeof(f_r->ticket), 0) == sizeof(f_r->ticket))
		return true;
	return fail(error_r, TLS_CERTIFICATE, "session tickets", "the kernel gives no random bytes");
}

int tls_files_pack(const struct tls_files *f)
{
	struct pack_head h = {.magic = PACK_MAGIC};
	memcpy(h.ticket, f->ticket, sizeof(h.ticket));
	for (unsigned i = 0; i < TLS_FILE_COUNT; i++)
		h.len[i] = (uint32_t)f->file[i].pem.len;
	struct span parts[1 + TLS_FILE_COUNT] = {{(const char *)&h, sizeof(h)}};
	for (unsigned i = 0; i < TLS_FILE_COUNT; i++)
		parts[1 + i] = (struct span){f->file[i].pem.p, f->file[i].pem.len};
	int fd = shm_sealed("orchestra-tls", parts, ARRAY_LEN(parts)), error = errno;
	OPENSSL_cleanse(&h, sizeof(h));
	errno = error;
	return fd;
}

bool tls_files_unpack(int fd, const struct conf *c, struct tls_files *f_r)
{
	struct pack_head h = {0};
	off_t at = sizeof(h);
	*f_r = (struct tls_files){0};
	bool ok = pread(fd, &h, sizeof(h), 0) == sizeof(h) && h.magic == PACK_MAGIC;
	for (unsigned i = 0; ok && i < TLS_FILE_COUNT; i++) {
		struct buf *b = &f_r->file[i].pem;
		f_r->file[i].path = conf_str(c, keys[i]);
		if (h.len[i] > TLS_FILE_MAX) {
			ok = false;
			break;
		}
		buf_reserve(b, h.len[i] + 1);
		ok = pread(fd, b->p, h.len[i], at) == (ssize_t)h.len[i];
		b->len = ok ? h.len[i] : 0;
		at += h.len[i];
	}
	memcpy(f_r->ticket, h.ticket, sizeof(h.ticket));
	OPENSSL_cleanse(&h, sizeof(h));
	return ok;
}

void tls_files_free(struct tls_files *f)
{
	for (unsigned i = 0; i < TLS_FILE_COUNT; i++) {
		struct buf *b = &f->file[i].pem;
		if (b->p)
			OPENSSL_cleanse(b->p, b->cap);
		buf_free(b);
	}
	OPENSSL_cleanse(f->ticket, sizeof(f->ticket));
}
