#include "base/left.h"

static _Atomic bool any;

void left_note(void)
{
	any = true;
}

bool left_any(void)
{
	return any;
}
