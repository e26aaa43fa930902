/* Identity tokens of the metadata server: one for each audience, fetched ahead. */
#define LOG_SUBSYSTEM LOG_IN_PINGER
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "log.h"
#include "token.h"

#define HOST "metadata.google.internal"
#define PATH "/computeMetadata/v1/instance/service-accounts/default/identity?format=full&audience="
#define TIMEOUT_US 5000000
#define SHORTLY_US 30000000  /* before its end a token is not shown any more: clocks differ */
#define AHEAD_US 300000000ll /* before its end the next one is fetched … */
#define AHEAD_PART 4	     /* … or when so much of its time is left, if that is less */
#define AGAIN_US 5000000     /* behind a failure, nobody asks before */
#define WARN_EVERY_S 60

struct token_wait {
	struct token_wait *next;
	struct token *of;
	token_fn *fn;
	void *arg;
};

struct token {
	struct token *next;
	struct tokens *in;
	char *audience;
	char *value;
	int64_t ends_us, refresh_us; /* clock_real_us() */
	int64_t again_us;	     /* clock_mono_us() */
	struct exchange *fetch;
	struct token_wait *waiting;
	char error[TOKEN_ERROR_MAX];
	struct log_limit limit;
};

struct tokens {
	struct transport *t;
	struct token *list;
};

struct tokens *tokens_open(struct transport *t)
{
	struct tokens *k = util_zalloc(sizeof(*k));
	k->t = t;
	return k;
}

static void answer_all(struct token *t, const char *value)
{
	struct token_wait *list = t->waiting, *w;
	t->waiting = NULL;
	for (w = list; w; w = w->next)
		w->of = NULL; /* not to be given up any more */
	while ((w = list)) {
		list = w->next;
		w->fn(w->arg, value, value ? NULL : t->error);
		free(w);
	}
}

static bool usable(const struct token *t, int64_t now_us) { return t->value && now_us < t->ends_us - SHORTLY_US; }

static bool take(struct token *t, const struct transport_answer *a)
{
	if (a->error) {
		snprintf(t->error, sizeof(t->error), "no identity token: the metadata server: %.150s", a->error);
		return false;
	}
	if (a->status != 200) {
		snprintf(t->error, sizeof(t->error),
			 "no identity token: the metadata server answered %ld; does this "
			 "machine have a service account?",
			 a->status);
		return false;
	}
	size_t n = a->body.len;
	while (n && (a->body.p[n - 1] == '\n' || a->body.p[n - 1] == '\r' || a->body.p[n - 1] == ' '))
		n--;
	char *value = util_strndup(a->body.p ? a->body.p : "", n);
	int64_t now = clock_real_us(), ends = token_expiry(value) * 1000000;
	if (ends - SHORTLY_US <= now) {
		snprintf(t->error, sizeof(t->error), "no identity token: the metadata server sent %s",
			 ends ? "one that has ended; is the clock right?" : "no JWT with an end (exp)");
		token_free(&value);
		return false;
	}
	int64_t ahead = (ends - SHORTLY_US - now) / AHEAD_PART;
	token_free(&t->value);
	t->value = value;
	t->ends_us = ends;
	t->refresh_us = ends - SHORTLY_US - (ahead < AHEAD_US ? ahead : AHEAD_US);
	return true;
}

static void on_fetched(void *arg, const struct transport_answer *a)
{
	struct token *t = arg;
	t->fetch = NULL;
	if (!take(t, a)) {
		t->again_us = clock_mono_us() + AGAIN_US;
		log_warn_limited(&t->limit, WARN_EVERY_S, "audience %s: %s", t->audience, t->error);
	}
	answer_all(t, usable(t, clock_real_us()) ? t->value : NULL);
}

static void fetch(struct token *t)
{
	static char flavor[] = "Metadata-Flavor: Google";
	static char *const headers[] = {flavor};
	const char *host = getenv("GCE_METADATA_HOST");
	struct buf url = {0};
	buf_printf(&url, "http://%s%s", host && *host ? host : HOST, PATH);
	for (const unsigned char *p = (const unsigned char *)t->audience; *p; p++) {
		if ((*p >= '0' && *p <= '9') || ((*p | 32) >= 'a' && (*p | 32) <= 'z') || strchr("-._~", *p))
			buf_addc(&url, (char)*p);
		else
			buf_printf(&url, "%%%02X", *p);
	}
	buf_addc(&url, '\0');
	struct transport_request r = {.url = url.p,
				      .method = "GET",
				      .headers = headers,
				      .nheaders = 1,
				      .timeout_us = TIMEOUT_US,
				      .connect_timeout_us = TIMEOUT_US,
				      .keep = TOKEN_MAX,
				      .direct = true};
	t->fetch = transport_start(t->in->t, &r, on_fetched, t);
	buf_free(&url);
}

static struct token *find(struct tokens *k, const char *audience)
{
	struct token *t = k->list;
	while (t && strcmp(t->audience, audience) != 0)
		t = t->next;
	if (t)
		return t;
	t = util_zalloc(sizeof(*t));
	*t = (struct token){.next = k->list, .in = k, .audience = util_strndup(audience, strlen(audience))};
	k->list = t;
	return t;
}

const char *tokens_get(struct tokens *k, const char *audience, token_fn *fn, void *arg, struct token_wait **wait_r)
{
	struct token *t = find(k, audience);
	int64_t now = clock_real_us();
	bool good = usable(t, now), soon = !good || now >= t->refresh_us;
	*wait_r = NULL;
	/* Behind a failure nobody asks ahead for a while; who has nothing asks at once. */
	if (soon && !t->fetch && (!good || clock_mono_us() >= t->again_us))
		fetch(t);
	if (good)
		return t->value;
	struct token_wait *w = util_zalloc(sizeof(*w));
	*w = (struct token_wait){.next = t->waiting, .of = t, .fn = fn, .arg = arg};
	t->waiting = w;
	*wait_r = w;
	return NULL;
}

void tokens_give_up(struct token_wait **wp)
{
	struct token_wait *w = *wp;
	*wp = NULL;
	if (!w || !w->of)
		return;
	struct token_wait **at = &w->of->waiting;
	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	free(w);
}

static void forget(struct token **at)
{
	struct token *t = *at;
	*at = t->next;
	transport_cancel(&t->fetch);
	AN(!t->waiting); /* their targets are gone before */
	token_free(&t->value);
	free(t->audience);
	free(t);
}

void tokens_keep(struct tokens *k, const struct target_list *l)
{
	for (struct token **at = &k->list; *at;) {
		bool wanted = false;
		for (size_t i = 0; i < l->n && !wanted; i++)
			wanted = l->v[i].audience && strcmp(l->v[i].audience, (*at)->audience) == 0;
		if (wanted)
			at = &(*at)->next;
		else
			forget(at);
	}
}

void tokens_close(struct tokens **kp)
{
	struct tokens *k = *kp;
	*kp = NULL;
	while (k && k->list)
		forget(&k->list);
	free(k);
}
