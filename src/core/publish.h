/*
 * What the database publishes, for the outputs that the settings name: the publication is made for
 * what they want, and looked at for what they want and it lacks.
 */
#ifndef PGHERALD_PUBLISH_H
#define PGHERALD_PUBLISH_H

#include "base/strbuf.h"
#include "conf/settings.h"
#include "pg/conn.h"

/* Creates the publication for just the tables that are wanted, when they are all named by every
 * output, and with the actions that anybody wants; the rest is filtered here. */
int publish_create(PGconn *sql, const struct settings *settings, struct err *err) MUST_CHECK;

/* Appends, for people, what is wanted but not published, and the SQL that mends it; nothing when
 * all is well. Of a publication that pgherald did not make only tables that are named are expected.
 * And which tables are published without a replica identity, so that nobody can update them. */
int publish_lacks(PGconn *sql, const struct settings *settings, struct strbuf *lacks,
		  struct err *err) MUST_CHECK;

#endif
