#include "sink/webhook_sign.h"

#include "base/base64.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#define MAC_LEN 32

/* False: it is no base64. */
static bool decode(struct strbuf *out, const char *secret)
{
	struct str text = str_c(secret);
	int n;

	if (!str_starts(text, STR("whsec_"))) {
		strbuf_str(out, text);
		return true;
	}
	text = str_from(text, 6);
	if (text.n == 0 || text.n % 4)
		return false;
	n = EVP_DecodeBlock((unsigned char *)strbuf_room(out, text.n),
			    (const unsigned char *)text.p, (int)text.n);
	if (n < 0)
		return false;
	out->n = (size_t)n;
	for (size_t i = text.n; i > 0 && text.p[i - 1] == '='; i--)
		out->n--; /* decoded as zeros */
	return true;
}

int signer_start(struct signer *s, const char *secret, struct err *err)
{
	OSSL_PARAM digest[] = { OSSL_PARAM_construct_utf8_string("digest", (char[]){ "SHA256" }, 0),
				OSSL_PARAM_construct_end() };
	struct strbuf key = { 0 };
	EVP_MAC *mac;
	int failed = 0;

	if (!secret)
		return 0;
	if (!decode(&key, secret)) {
		strbuf_release(&key);
		return err_set(err, ERR_CONFIG, "secret: what stands behind whsec_ is not base64");
	}
	mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	s->mac = EVP_MAC_CTX_new(mac);
	EVP_MAC_free(mac);
	if (!s->mac || !EVP_MAC_init(s->mac, (unsigned char *)key.p, key.n, digest))
		failed = err_set(err, ERR_FAIL, "OpenSSL has no HMAC-SHA256");
	OPENSSL_cleanse(key.p, key.n);
	strbuf_release(&key);
	return failed;
}

void signer_print(struct signer *s, const char *id, const char *time, struct str body,
		  struct strbuf *out)
{
	unsigned char mac[MAC_LEN];
	struct strbuf head = { 0 };
	size_t n = 0;

	strbuf_printf(&head, "%s.%s.", id, time);
	EVP_MAC_init(s->mac, NULL, 0, NULL);
	EVP_MAC_update(s->mac, (unsigned char *)head.p, head.n);
	EVP_MAC_update(s->mac, (const unsigned char *)body.p, body.n);
	EVP_MAC_final(s->mac, mac, &n, sizeof(mac));
	strbuf_lit(out, "v1,");
	base64_encode(out, (struct str){ (char *)mac, n });
	strbuf_release(&head);
}

void signer_stop(struct signer *s)
{
	EVP_MAC_CTX_free(s->mac);
	s->mac = NULL;
}
