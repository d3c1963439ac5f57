#include "core/pace.h"

#define FLOW_MS 32        /* of our own events, or of others that wake us */
#define VAIN_AFTER_MS 100 /* without an event of our own */
#define VAIN_LOOKS 30     /* without telling the store that we sleep */
#define NAP_MS 1

static int64_t min(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

void pace_wake(struct pace *p)
{
	p->next = 0;
	p->sleep = 0;
	p->looks = 0;
	p->tells = p->told = false;
}

void pace_woken(struct pace *p, int64_t now)
{
	pace_wake(p);
	p->in_vain = p->woken && now - p->busy > VAIN_AFTER_MS;
	p->woken = true;
	if (p->in_vain) {
		p->looks = VAIN_LOOKS;
		p->next = p->looked + FLOW_MS;
	}
}

bool pace_look(struct pace *p, int64_t now)
{
	bool tells = p->tells;

	p->looked = now;
	if (tells)
		p->sleep = p->most;
	p->told = tells;
	p->tells = false;
	return tells;
}

void pace_found(struct pace *p, size_t n, bool full, int64_t now)
{
	pace_wake(p);
	p->woken = p->in_vain = false;
	p->busy = now;
	if (!full)
		p->next = now + (n < FLOW_MS ? (int64_t)n : FLOW_MS);
}

static void sleep_now(struct pace *p, int64_t ms, int64_t now)
{
	p->sleep = min(ms, p->most);
	p->next = now + p->sleep;
}

void pace_nothing(struct pace *p, int64_t now)
{
	if (p->looks > 0) {
		p->looks--;
		sleep_now(p, FLOW_MS, now);
	} else if (p->told) {
		sleep_now(p, p->in_vain && p->sleep < FLOW_MS ? FLOW_MS : p->sleep, now);
	} else if (p->sleep == 0) {
		sleep_now(p, NAP_MS, now);
	} else if (!p->listens) {
		sleep_now(p, p->sleep * 2, now);
	} else {
		p->tells = true;
		p->next = 0;
	}
}
