/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Finds @size bytes of executable memory that can never run: the zeros between the end of an ELF file's code and the end of
 * the page that it ends in. @maps is the text of /proc/PID/maps, @pid the process, which this one may trace
 * (process_vm_readv(2)).
 *
 * Where no such zeros are left, a place with bytes that @reusable knows is taken: what one before has left there. It is the
 * second choice, since a signal handler may yet return into it.
 *
 * 0 with the address in @ret; -ENOENT where no executable mapping has room; -EBADMSG where @maps is not as proc(5) has it.
 */
int cave_find(const char *maps, pid_t pid, size_t size, bool (*reusable)(const uint8_t *bytes), uint64_t *ret);

/* The same for up to @max places; returns how many there are. One that is reused is only taken where there is no other. */
int cave_find_many(const char *maps, pid_t pid, size_t size, bool (*reusable)(const uint8_t *bytes), uint64_t *ret, size_t max);

/*
 * Up to @max times @size bytes of zeros that can be written to and belong to nobody: the rest of the page in which an ELF
 * file's variables end. Returns how many there are, perhaps none; -EBADMSG as above.
 */
int cave_find_variables(const char *maps, pid_t pid, size_t size, uint64_t *ret, size_t max);

/* Where the variables of the ELF files in @maps lie, zeroed ones too: begin and end of each range. How many, at most @max, or -EBADMSG. */
int cave_find_variable_ranges(const char *maps, pid_t pid, uint64_t (*ret)[2], size_t max);
