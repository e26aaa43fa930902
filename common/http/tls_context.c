/* Certificate, key and settings of new connections: an SSL_CTX. */
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "http/http-private.h"

/* Level 2: no keys below 112 bits (RSA 2048), no SHA-1 in signatures. Said here, because distributions differ. */
#define SECURITY_LEVEL 2
#define CIPHERS_12 "ECDHE+AESGCM:ECDHE+CHACHA20" /* forward secrecy and authenticated encryption; 1.3 has no others */

struct http_tls {
	SSL_CTX *ctx;
	X509 *leaf;
	const struct tls_files *files; /* while being made */
	char **error_r;
};

/* ---- errors ---- */

static bool fail(struct http_tls *t, enum tls_file i, const char *fmt, ...) printf_like(3, 4);
static bool fail(struct http_tls *t, enum tls_file i, const char *fmt, ...)
{
	struct buf b = {0};
	char *what = NULL;
	va_list ap;
	va_start(ap, fmt);
	if (vasprintf(&what, fmt, ap) == -1)
		what = NULL;
	va_end(ap);
	buf_printf(&b, "%s: %s: %s", tls_files_key(i), t->files->file[i].path, what ? what : "unusable");
	buf_addc(&b, '\0');
	free(what);
	free(*t->error_r);
	*t->error_r = b.p;
	ERR_clear_error();
	return false;
}

/* What OpenSSL says was wrong, without its codes. */
static const char *reason(void)
{
	const char *text = ERR_reason_error_string(ERR_peek_last_error());
	return text ? text : "OpenSSL gives no reason";
}

/* ---- files ---- */

/* Nobody is there to type one. */
static int no_passphrase(char *buf, int size, int writing, void *asked)
{
	(void)buf, (void)size, (void)writing;
	*(bool *)asked = true;
	return -1;
}

static BIO *open_pem(const struct http_tls *t, enum tls_file i)
{
	const struct buf *b = &t->files->file[i].pem;
	BIO *bio = BIO_new_mem_buf(b->len ? b->p : "", (int)b->len);
	AN(bio);
	return bio;
}

/* The next certificate; NULL at the end of the file, or with *bad_r where something is none. */
static X509 *next_certificate(BIO *bio, bool *bad_r)
{
	X509 *x = PEM_read_bio_X509(bio, NULL, NULL, NULL);
	*bad_r = !x && ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE;
	if (!x && !*bad_r)
		ERR_clear_error();
	return x;
}

static bool read_certificate(struct http_tls *t, BIO *bio)
{
	X509 *x;
	bool bad;
	t->leaf = next_certificate(bio, &bad);
	if (!t->leaf && !bad)
		return fail(t, TLS_CERTIFICATE, "holds no certificate in PEM (-----BEGIN CERTIFICATE-----)");
	if (!t->leaf)
		return fail(t, TLS_CERTIFICATE, "the first certificate cannot be read: %s", reason());
	if (SSL_CTX_use_certificate(t->ctx, t->leaf) != 1)
		return fail(t, TLS_CERTIFICATE, "the first certificate cannot be used: %s", reason());
	for (unsigned n = 2; (x = next_certificate(bio, &bad)); n++) {
		if (SSL_CTX_add0_chain_cert(t->ctx, x) == 1)
			continue;
		X509_free(x);
		return fail(t, TLS_CERTIFICATE, "certificate %u of the chain cannot be used: %s", n, reason());
	}
	return !bad || fail(t, TLS_CERTIFICATE, "a certificate behind the first cannot be read: %s", reason());
}

static bool read_key(struct http_tls *t, BIO *bio)
{
	bool encrypted = false;
	EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, &encrypted);
	bool ok;
	if (encrypted)
		ok = fail(
			t, TLS_KEY,
			"is encrypted, and nobody is there to type the passphrase; store it decrypted, with mode 0640");
	else if (!key)
		ok = fail(t, TLS_KEY, "holds no private key in PEM: %s", reason());
	else if (X509_check_private_key(t->leaf, key) != 1)
		ok = fail(t, TLS_KEY, "does not belong to the first certificate of tls.certificate, %s",
			  t->files->file[TLS_CERTIFICATE].path);
	else
		ok = SSL_CTX_use_PrivateKey(t->ctx, key) == 1 || fail(t, TLS_KEY, "cannot be used: %s", reason());
	EVP_PKEY_free(key);
	return ok;
}

static bool read_client_ca(struct http_tls *t, BIO *bio)
{
	X509 *x;
	bool bad;
	unsigned n = 0;
	for (; (x = next_certificate(bio, &bad)); n++) {
		bool ok = X509_STORE_add_cert(SSL_CTX_get_cert_store(t->ctx), x) == 1 &&
			  SSL_CTX_add_client_CA(t->ctx, x) == 1;
		X509_free(x);
		if (!ok)
			return fail(t, TLS_CLIENT_CA, "certificate %u cannot be used: %s", n + 1, reason());
	}
	if (bad)
		return fail(t, TLS_CLIENT_CA, "certificate %u cannot be read: %s", n + 1, reason());
	if (n == 0)
		return fail(t, TLS_CLIENT_CA, "holds no certificate in PEM (-----BEGIN CERTIFICATE-----)");
	SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	return true;
}

static bool read_files(struct http_tls *t)
{
	static bool (*const readers[])(struct http_tls * t, BIO * bio) = {
		[TLS_CERTIFICATE] = read_certificate, [TLS_KEY] = read_key, [TLS_CLIENT_CA] = read_client_ca};
	for (enum tls_file i = 0; i < TLS_FILE_COUNT; i++) {
		if (i == TLS_CLIENT_CA && !*t->files->file[i].path)
			continue;
		BIO *bio = open_pem(t, i);
		bool ok = readers[i](t, bio);
		BIO_free(bio);
		if (!ok)
			return false;
	}
	return true;
}

/* ---- settings ---- */

static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in,
			   unsigned in_len, void *arg)
{
	static const unsigned char ours[] = "\x08http/1.1";
	unsigned char *chosen;
	(void)ssl, (void)arg;
	if (SSL_select_next_proto(&chosen, out_len, ours, sizeof(ours) - 1, in, in_len) != OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL; /* a client of HTTP/2 alone hears it here, not from a parser */
	*out = chosen;
	return SSL_TLSEXT_ERR_OK;
}

/* The version is known by then, and nothing that depends on this option is sent yet. */
static int no_tickets_in_12(SSL *ssl, void *arg)
{
	(void)arg;
	if (SSL_version(ssl) < TLS1_3_VERSION)
		SSL_set_options(ssl, SSL_OP_NO_TICKET);
	return 1;
}

static bool configure(SSL_CTX *ctx, const unsigned char *ticket, bool only_13)
{
	static const unsigned char id[] = "orchestra";
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE |
					 SSL_OP_PRIORITIZE_CHACHA | SSL_OP_IGNORE_UNEXPECTED_EOF);
	/* Buffers only while they hold something; one read for all that waits; output may move between tries. */
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
				      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_read_ahead(ctx, 1);
	SSL_CTX_set_security_level(ctx, SECURITY_LEVEL);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_alpn_select_cb(ctx, choose_protocol, NULL);
	SSL_CTX_set_cert_cb(ctx, no_tickets_in_12, NULL);
	/* OpenSSL takes the secret without changing it, whatever its prototype says. */
	return SSL_CTX_set_min_proto_version(ctx, only_13 ? TLS1_3_VERSION : TLS1_2_VERSION) == 1 &&
	       SSL_CTX_set_max_proto_version(ctx, 0) == 1 && SSL_CTX_set_cipher_list(ctx, CIPHERS_12) == 1 &&
	       SSL_CTX_set_num_tickets(ctx, 1) == 1 && SSL_CTX_set_session_id_context(ctx, id, sizeof(id) - 1) == 1 &&
	       SSL_CTX_set_tlsext_ticket_keys(ctx, (void *)(uintptr_t)ticket, TLS_TICKET_BYTES) == 1;
}

struct http_tls *http_tls_new(const struct tls_files *f, bool only_13, char **error_r)
{
	struct http_tls *t = util_zalloc(sizeof(*t));
	t->files = f;
	t->error_r = error_r;
	*error_r = NULL;
	ERR_clear_error();
	t->ctx = SSL_CTX_new(TLS_server_method());
	if (!t->ctx || !configure(t->ctx, f->ticket, only_13))
		(void)fail(t, TLS_CERTIFICATE, "OpenSSL refuses our settings: %s", reason());
	else if (read_files(t))
		return t;
	http_tls_free(&t);
	return NULL;
}

void http_tls_free(struct http_tls **tp)
{
	struct http_tls *t = *tp;
	if (!t)
		return;
	*tp = NULL;
	X509_free(t->leaf);
	SSL_CTX_free(t->ctx); /* connections that use it hold it */
	free(t);
}

SSL *http_tls_ssl(const struct http_tls *t) { return SSL_new(t->ctx); }

/* ---- for people ---- */

static void add_time(struct buf *out, const ASN1_TIME *when)
{
	struct tm tm;
	char text[32];
	if (ASN1_TIME_to_tm(when, &tm) == 1 && strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%SZ", &tm))
		buf_adds(out, text);
	else
		buf_addc(out, '?');
}

static void add_name(struct buf *out, const X509 *x)
{
	char *p;
	BIO *bio = BIO_new(BIO_s_mem());
	AN(bio);
	X509_NAME_print_ex(bio, X509_get_subject_name(x), 0, XN_FLAG_RFC2253);
	long n = BIO_get_mem_data(bio, &p);
	if (n > 0)
		buf_add(out, p, (size_t)n);
	BIO_free(bio);
}

void http_tls_describe(const struct http_tls *t, struct buf *out)
{
	BIGNUM *serial = ASN1_INTEGER_to_BN(X509_get0_serialNumber(t->leaf), NULL);
	char *hex = serial ? BN_bn2hex(serial) : NULL;
	add_name(out, t->leaf);
	buf_printf(out, ", serial %s, valid until ", hex ? hex : "?");
	add_time(out, X509_get0_notAfter(t->leaf));
	OPENSSL_free(hex);
	BN_free(serial);
}

int64_t http_tls_expires(const struct http_tls *t)
{
	struct tm tm;
	return ASN1_TIME_to_tm(X509_get0_notAfter(t->leaf), &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

char *http_tls_objection(const struct http_tls *t)
{
	const ASN1_TIME *from = X509_get0_notBefore(t->leaf), *to = X509_get0_notAfter(t->leaf);
	bool expired = X509_cmp_current_time(to)<0, early = X509_cmp_current_time(from)> 0;
	struct buf b = {0};
	if (!expired && !early)
		return NULL;
	buf_adds(&b, expired ? "the certificate expired at " : "the certificate is not valid before ");
	add_time(&b, expired ? to : from);
	buf_adds(&b, "; clients will refuse it");
	buf_addc(&b, '\0');
	return b.p;
}
