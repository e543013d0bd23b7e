/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Starts pkttyagent(1), which asks for a password on this terminal, and waits until polkit knows it. Does nothing where
 * there is no terminal, or no pkttyagent: then only an agent of the session, if there is one, can ask.
 */
void agent_open(void);

/* Ends it, where it was started; it gives the terminal back as it was. */
void agent_close(void);
