#include "core/session.h"

#include "base/log.h"
#include "flow/filter.h"
#include "pg/catalog.h"
#include "pg/conn.h"
#include "pg/publication.h"
#include "pg/server.h"
#include "pg/slot.h"

#include <stdlib.h>

static struct str keep(struct arena *a, const char *s)
{
	size_t n = strlen(s);

	return (struct str){ arena_copy(a, s, n), n };
}

/* Fills the source the first time; later, the server must be the same. */
static int identify(struct session *s, PGconn *repl, const struct settings *settings,
		    const struct session_past *past, struct source *source, struct arena *arena,
		    struct err *err)
{
	struct server_identity id;

	if (server_identify(repl, &id, err))
		return -1;
	s->server_lsn = id.xlogpos;
	source->server_version = (uint32_t)PQserverVersion(repl);
	if (past->connected) {
		if (id.system_id == source->system_id)
			return 0;
		return err_set(err, ERR_LOST,
			       "this is another server: its system identifier is %llu, it was %llu",
			       (unsigned long long)id.system_id,
			       (unsigned long long)source->system_id);
	}
	source->system_id = id.system_id;
	source->db = keep(arena, PQdb(repl));
	source->slot = keep(arena, settings->slot);
	source->name = settings->name ? keep(arena, settings->name) : source->db;
	return 0;
}

/* The publication comes before the slot: the slot sees the catalog as it was in the past. */
static int ensure_publication(struct session *s, const struct settings *settings,
			      const struct session_past *past, struct err *err)
{
	bool exists;

	if (publication_exists(s->sql, settings->publication, &exists, err))
		return -1;
	if (exists)
		return 0;
	if (past->connected)
		return err_set(err, ERR_LOST,
			       "publication \"%s\" was dropped: changes since then are lost to this slot",
			       settings->publication);
	if (!settings->create)
		return err_set(err, ERR_CONFIG,
			       "publication \"%s\" does not exist and --no-create was given; run: "
			       "CREATE PUBLICATION \"%s\" FOR ALL TABLES",
			       settings->publication, settings->publication);
	if (publication_create(s->sql, settings, err))
		return -1;
	log_info("created publication %s", settings->publication);
	return 0;
}
