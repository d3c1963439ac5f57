/* Signatures of webhooks as Standard Webhooks has them (standardwebhooks.com). */
#ifndef PGHERALD_WEBHOOK_SIGN_H
#define PGHERALD_WEBHOOK_SIGN_H

#include "base/err.h"
#include "base/strbuf.h"

struct signer {
	struct evp_mac_ctx_st *mac; /* NULL: nothing is signed */
};

/* The secret is base64 behind "whsec_", else bytes as they are; NULL: nothing is signed. CONFIG
 * when it is no base64. */
int signer_start(struct signer *s, const char *secret, struct err *err) MUST_CHECK;

/* Appends "v1," and the HMAC-SHA256 of ID.TIME.BODY in base64. */
void signer_print(struct signer *s, const char *id, const char *time, struct str body,
		  struct strbuf *out);

/* Also after a failed start. */
void signer_stop(struct signer *s);

#endif
