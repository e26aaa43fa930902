/* Stop words of English. */
#include <stdlib.h>

#include "words.h"

/* Sorted. Pieces that an apostrophe leaves ("don", "t") and whole contractions without one ("dont"), because
 * tokenisers differ there; not those that are also words ("ill", "cant", "wed", "shed"). */
/* clang-format off */
static const char *const stop_words[] = {
	"a", "about", "above", "after", "again", "against", "all", "also", "am", "an", "and", "any", "are", "arent",
	"as", "at", "be", "because", "been", "before", "being", "below", "between", "both", "but", "by", "can", "could",
	"couldnt", "d", "did", "didn", "didnt", "do", "does", "doesn", "doesnt", "doing", "don", "dont", "down",
	"during", "each", "few", "for", "from", "further", "had", "hadnt", "has", "hasnt", "have", "havent", "having",
	"he", "her", "here", "hers", "herself", "him", "himself", "his", "how", "i", "if", "im", "in", "into", "is",
	"isn", "isnt", "it", "its", "itself", "ive", "just", "let", "ll", "m", "me", "more", "most", "my", "myself",
	"no", "nor", "not", "now", "of", "off", "on", "once", "only", "or", "other", "our", "ours", "ourselves", "out",
	"over", "own", "re", "s", "same", "she", "should", "shouldnt", "so", "some", "such", "t", "than", "that", "the",
	"their", "theirs", "them", "themselves", "then", "there", "these", "they", "theyre", "theyve", "this", "those",
	"through", "to", "too", "under", "until", "up", "upon", "us", "ve", "very", "was", "wasn", "wasnt", "we",
	"were", "werent", "weve", "what", "when", "where", "which", "while", "who", "whom", "whose", "why", "will",
	"with", "won", "wont", "would", "wouldnt", "you", "youd", "youll", "your", "youre", "yours", "yourself",
	"yourselves", "youve",
};
/* clang-format on */
#define LONGEST 10

static int compare_word(const void *key, const void *at)
{
	const struct span *s = key;
	const char *w = *(const char *const *)at;
	int c = strncmp(s->p, w, s->len);
	return c ? c : -(w[s->len] != 0);
}

bool words_is_stop(struct span word)
{
	return word.len && word.len <= LONGEST &&
	       bsearch(&word, stop_words, ARRAY_LEN(stop_words), sizeof(*stop_words), compare_word);
}
