/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <sys/types.h>
#include <syslog.h>

/*
 * Log lines go to the journal where it listens and standard error is no terminal, else to standard error. Events carry a
 * MESSAGE_ID, so that journalctl and auditors find them whatever their text; what is about a process carries OBJECT_PID,
 * from which journald adds the process's own fields.
 */
#define LOG_EVENT_STARTED "2a975f2ca4cd4f2ca80aecd93038a970"
#define LOG_EVENT_STOPPED "35596768c7fa4fe1af6950992c6a3050"
#define LOG_EVENT_CLONED "eda44757455945d28d724ed6d76573fe"
#define LOG_EVENT_FAILED "ef256a6ef3a94e8fb6a5a42044811cbb"
#define LOG_EVENT_DENIED "e4136e2a45c9429ca7a5904190774073"
#define LOG_EVENT_RELOADED "960f8a3c0e8a49e4b641b588b6edaf20"
#define LOG_EVENT_LIMIT "e9280ef8a2a14a46bd4e970956e8770f"

/* Decides where lines go. Before it everything goes to standard error. */
void log_init(void);

/* A line; @event is one of the IDs above or NULL, @pid is the process that it is about or 0. */
void log_event(int priority, const char *event, pid_t pid, const char *format, ...) G_GNUC_PRINTF(4, 5);

#define log_debug(...) log_event(LOG_DEBUG, NULL, 0, __VA_ARGS__)
#define log_info(...) log_event(LOG_INFO, NULL, 0, __VA_ARGS__)
#define log_warning(...) log_event(LOG_WARNING, NULL, 0, __VA_ARGS__)
#define log_error(...) log_event(LOG_ERR, NULL, 0, __VA_ARGS__)

/* Lines of a lesser priority than this, of syslog.h, are dropped; LOG_INFO at first. */
void log_set_level(int most);
int log_get_level(void);

typedef enum LogTarget {
        LOG_TARGET_JOURNAL,
        LOG_TARGET_CONSOLE, /* standard error */
        _LOG_TARGET_MAX,
} LogTarget;

void log_set_target(LogTarget target);
LogTarget log_get_target(void);

/*
 * The name of a process is its own choice: control characters, quotes and what is no UTF-8 come out as \xNN, cut after 64
 * characters, so that it can neither break a line or a table nor pass for something else in a prompt. The caller frees it.
 */
char *log_escape(const char *text);
