#include "cli/title.h"

#include "base/mem.h"
#include "base/url.h"
#include "conf/settings.h"

static char **copies; /* never freed */

/* Writes the text over the argument, whose length it cannot pass. */
static void put_over(char *arg, struct str text)
{
	size_t room = strlen(arg), n = text.n < room ? text.n : room;

	memset(arg, 0, room);
	memcpy(arg, text.p, n);
}

/* --NAME of a flag whose value is a secret as a whole, as those of presets are. */
static bool is_secret_flag(const char *arg)
{
	return strncmp(arg, "--", 2) == 0 && !strchr(arg, '=') && url_is_secret(str_c(arg + 2));
}

static void hide(char *arg)
{
	char *eq = strncmp(arg, "--", 2) == 0 ? strchr(arg, '=') : NULL;
	struct str name = { arg + 2, eq ? (size_t)(eq - arg - 2) : 0 };
	struct strbuf shown = { 0 };

	if (eq)
		arg = eq + 1;
	if (eq && url_is_secret(name))
		strbuf_lit(&shown, "***");
	else
		settings_mask(&shown, str_c(arg));
	if (memmem(shown.p, shown.n, "***", 3))
		put_over(arg, strbuf_view(&shown));
	strbuf_release(&shown);
}

char **title_hide(int argc, char **argv)
{
	copies = mem_array((size_t)argc + 1, sizeof(*copies));
	for (int i = 0; i < argc; i++)
		copies[i] = mem_strdup(argv[i]);
	for (int i = 1; i < argc; i++) {
		if (is_secret_flag(copies[i - 1]))
			put_over(argv[i], STR("***"));
		else
			hide(argv[i]);
	}
	return copies;
}
