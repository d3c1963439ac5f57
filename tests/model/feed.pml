/*
 * The order of the event store's feed (docs/store-order.md). spin explores every interleaving of
 * writers, rollbacks and a reader:
 *
 *     spin -run -DSAFETY feed.pml             no errors
 *     spin -DNAIVE -run -DSAFETY feed.pml     must fail: a reader that passes what is not visible yet
 *     spin -DSNAPSHOT -run -DSAFETY feed.pml  must fail: the snapshot is taken before the marks
 *     spin -DLATE -run -DSAFETY feed.pml      must fail: the mark is taken after the position
 *     spin -DEARLY -run -DSAFETY feed.pml     must fail: the mark goes before the commit is visible
 *
 * Sequence, locks and the set of committed transactions are the only shared state, and each access
 * to one of them is one step; the list of locks need not even be one. Two of the writers append to one stream, whose row
 * they lock; the third has its own. A writer may roll back at its end, or hold its positions for as
 * long as it likes, which is also what a prepared transaction does.
 */
#define WRITERS 3
#define EACH 2                  /* positions that a transaction draws */
#define LAST (WRITERS * EACH)   /* the highest position there can be */
#define NONE 15

byte sequence = 0;              /* its last value: not part of any snapshot */
byte mark[WRITERS] = NONE;      /* shared advisory locks, by holder */
bool visible[WRITERS];          /* committed, for snapshots taken from now on */
byte owner[LAST + 1] = NONE;    /* whose feed row has this position */
byte version[LAST + 1];         /* its version in the stream */
bool rolled_back[WRITERS];
byte writers_left = WRITERS;

/* The stream of writers 0 and 1: its row is the lock. */
bool row_locked = false;
byte row_version = 0;

bool seen[LAST + 1];

proctype writer(byte me)
{
	byte key, i, mine = 0;

	/* append: the stream's row first */
	if
	:: me < 2 -> atomic { !row_locked -> row_locked = true }; mine = row_version
	:: else
	fi;

	/* the deferred trigger, just before commit */
#ifdef LATE
	sequence++; owner[sequence] = me; version[sequence] = mine + 1;
	key = sequence - 1;
	mark[me] = key;
	i = 1;
#else
	key = sequence;
	mark[me] = key;
	i = 0;
#endif
	do
	:: i < EACH ->
		atomic { sequence++; owner[sequence] = me; version[sequence] = mine + i + 1 }
		i++
	:: else -> break
	od;

#ifdef EARLY
	mark[me] = NONE;
#endif
	if
	:: atomic { visible[me] = true; if :: me < 2 -> row_version = mine + EACH :: else fi }
	:: rolled_back[me] = true
	fi;
	/* only then do locks go */
	mark[me] = NONE;
	if
	:: me < 2 -> row_locked = false
	:: else
	fi;
	writers_left--
}

proctype reader()
{
	byte after = 0, horizon, i, next = 1;
	bool sees[WRITERS];
	bool last_round = false, gap = false;

	do
	:: last_round -> break
	:: else ->
		last_round = (writers_left == 0);
#ifdef SNAPSHOT
		atomic { for (i : 0 .. WRITERS - 1) { sees[i] = visible[i] } }
#endif
#ifdef NAIVE
		horizon = LAST;
#else
		horizon = after;                        /* all that is seen behind it, if it has no gap */
		d_step {
			gap = false;
			for (i : after + 1 .. LAST) {
				if
				:: owner[i] != NONE && visible[owner[i]] ->
					gap = gap || horizon != i - 1;
					horizon = i
				:: else
				fi
			}
			if
			:: gap -> horizon = after
			:: else
			fi
			gap = false;
			i = 0
		}
		if
		:: horizon > after -> last_round = false /* the rest is for the next */
		:: true ->
			horizon = sequence;             /* 1: the sequence */
			for (i : 0 .. WRITERS - 1) {    /* 2: the smallest mark, one by one */
				d_step {
					if
					:: mark[i] < horizon -> horizon = mark[i]
					:: else
					fi
				}
			}
		fi
#endif
#ifndef SNAPSHOT
		atomic { for (i : 0 .. WRITERS - 1) { sees[i] = visible[i] } } /* 3: a later snapshot */
#endif
		skip;
		/* what this snapshot shows of the feed, from the cursor to the horizon */
		d_step {
			for (i : 1 .. LAST) {
				if
				:: i > after && i <= horizon && owner[i] != NONE && sees[owner[i]] ->
					seen[i] = true;
					after = i;
					if
					:: owner[i] < 2 ->
						assert(version[i] == next); /* a stream's events in order */
						next++
					:: else
					fi
				:: else
				fi
			}
		}
	od;

	/* Everything that was committed has been seen. */
	for (i : 1 .. LAST) {
		assert(owner[i] == NONE || rolled_back[owner[i]] || seen[i])
	}
}

init {
	atomic { run writer(0); run writer(1); run writer(2); run reader() }
}
