/* What the files of the destination webhook share: its state, and how one request is made. */
#ifndef PGHERALD_WEBHOOK_H
#define PGHERALD_WEBHOOK_H

#include "sink/sink.h"
#include "sink/webhook_sign.h"

#include <curl/curl.h>

#define ANSWER_SHOWN 200

struct item {
	const struct batch *b;
	uint32_t i;
};

struct items {
	struct item *v;
	size_t head, end, cap; /* [head, end) wait */
};

struct lane {
	CURL *easy;
	struct curl_slist *headers;
	struct items items;
	uint32_t flying; /* of the items, in the request under way; 0: none */
	uint32_t most;   /* to be put in one array */
	bool refused;    /* its last one; it goes on when that is settled */
	bool alone;      /* what it has is to be taken before anything behind */
	struct strbuf body;
	char answer[ANSWER_SHOWN];
	size_t answer_n;
	char error[CURL_ERROR_SIZE];
};

struct webhook {
	CURLM *multi;
	struct lane *lanes;
	uint32_t nlanes;
	uint32_t array; /* the most messages of a request; 1: no arrays */
	struct items queue;
	struct strbuf target;
	struct strbuf origin; /* as a header has it */
	const char *content_type;
	struct signer signer;
	bool progress; /* something was taken or refused */
};

/* Once for each process, before all else. */
void webhook_request_init(void);

/* Target, origin and content type, which all requests have; w->array is set. */
void webhook_request_prepare(struct sink *s);

/* Connects once, so that a host that is away or not to be trusted is known before an event is. */
int webhook_request_probe(struct sink *s, struct err *err) MUST_CHECK;

/* Makes the lane's handle, which the caller cleans up. */
void webhook_request_open(struct sink *s, struct lane *lane);

/* Sets the headers of the lane's next request; `first` is the first of its messages. */
void webhook_request_headers(struct sink *s, struct lane *lane, const struct item *first,
			     struct str body);

/* Why no answer came: CONFIG where that is to be mended, else RETRY. Returns -1. */
int webhook_request_failed(CURLcode code, const char *text, struct err *err);

#endif
