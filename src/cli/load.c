/* pgherald load: an aggregate's snapshot and the events behind it, as JSON lines. */
#include "base/log.h"
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>

static int print_page(const struct store_page *page, struct err *err)
{
	struct strbuf out = { 0 };
	int failed = 0;

	for (size_t i = 0; i < page->n; i++) {
		store_event_json(&out, &page->events[i]);
		strbuf_ch(&out, '\n');
	}
	if (page->n && (fwrite(out.p, 1, out.n, stdout) != out.n || fflush(stdout)))
		failed = err_set(err, ERR_FAIL, "cannot write: %s", strerror(errno));
	strbuf_release(&out);
	return failed;
}

int load_run(const struct command *command, struct settings *s)
{
	struct store store = { 0 };
	struct store_page page = { 0 };
	struct err err = { 0 };
	int64_t version;
	int failed;

	if (!s->category || !s->stream_id)
		failed = err_set(&err, ERR_USAGE, "name the stream: --category and --stream-id");
	else
		failed = cli_store(&store, s, &err) ||
			 store_call(&store, &err, load, s->category, s->stream_id, &page, &version) ||
			 print_page(&page, &err);
	if (failed)
		log_error("%s", err.msg);
	store_page_release(&page);
	store_release(&store);
	cli_free(s);
	return failed ? err_exit_code(err.kind) : 0;
}
