#include "sample/requests.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

enum { MESSAGE = 256, WORD = 40, MOST_ADDED = 1000000 };

static bool letter_of_id(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

/* A word of the line: up to a space or the end. */
struct Word {
  const char *at;
  size_t length;
};

/* The next word; words are apart by one space each. False at the end. */
static bool next_word(const char **rest, const char *end, struct Word *word) {
  if (*rest > end) return false;
  const char *space = memchr(*rest, ' ', (size_t)(end - *rest));
  word->at = *rest;
  word->length = (size_t)((space != NULL ? space : end) - *rest);
  *rest = word->at + word->length + 1;
  return true;
}

static bool is(struct Word word, const char *text) {
  return word.length == strlen(text) && memcmp(word.at, text, word.length) == 0;
}

/* Words in messages are cut short, and freed of what does not belong into a line of JSON. */
static const char *shown(struct Word word, char text[WORD]) {
  const size_t length = size_min(word.length, WORD - 1);
  for (size_t i = 0; i < length; i++) {
    const char c = word.at[i];
    text[i] = c > ' ' && c < 127 && c != '"' && c != '\\' ? c : '?';
  }
  text[length] = '\0';
  return text;
}

static bool read_id(struct Word word, char id[REQUEST_ID + 1]) {
  if (word.length == 0 || word.length > REQUEST_ID) return false;
  for (size_t i = 0; i < word.length; i++) {
    if (!letter_of_id(word.at[i])) return false;
  }
  memcpy(id, word.at, word.length);
  id[word.length] = '\0';
  return true;
}

/* Digits, a point, an exponent: what strtod takes beyond that (inf, nan, hexadecimal, spaces) is not a number here. */
static bool read_number(struct Word word, double *number) {
  char text[WORD], *end;
  if (word.length == 0 || word.length >= WORD) return false;
  for (size_t i = 0; i < word.length; i++) {
    if (memchr("0123456789.+-eE", word.at[i], 15) == NULL) return false;
  }
  memcpy(text, word.at, word.length);
  text[word.length] = '\0';
  *number = strtod(text, &end);
  return *end == '\0' && isfinite(*number);
}

static bool read_whole(struct Word word, uint64_t *whole) {
  if (word.length == 0 || word.length > 20) return false;
  *whole = 0;
  for (size_t i = 0; i < word.length; i++) {
    const char digit = word.at[i];
    if (digit < '0' || digit > '9') return false;
    if (__builtin_mul_overflow(*whole, 10, whole)) return false;
    if (__builtin_add_overflow(*whole, (uint64_t)(digit - '0'), whole)) return false;
  }
  return true;
}

size_t prompt_parse(const char *flag, const char *prompt, size_t V, int eot, int *ids) {
  if (prompt == NULL || *prompt == '\0') {
    if (ids != NULL) ids[0] = eot;
    return 1;
  }
  size_t count = 0;
  for (const char *at = prompt;; at++) {
    char *end;
    errno = 0;
    unsigned long id = strtoul(at, &end, 10);
    if (end == at || *at == '-' || errno != 0 || id >= V || (*end != ',' && *end != '\0')) {
      die(EXIT_USAGE, "--%s takes token ids below %zu, separated by commas, not '%s'", flag, V, prompt);
    }
    if (ids != NULL) ids[count] = (int)id;
    count++;
    if (*end == '\0') return count;
    at = end;
  }
}

size_t request_context(size_t count, size_t positions) {
  if (count <= positions) return count;
  const size_t kept = positions / 2;  // after each slide; a slide makes room for positions - kept tokens
  return kept + (count - positions - 1) % (positions - kept) + 1;
}

/* Token ids with commas between them, which are all checked and of which the context's are kept. */
static bool read_prompt(struct Request *request, struct Word word, size_t V, size_t positions, char *message) {
  size_t count = 1, at = 0;
  for (size_t i = 0; i < word.length; i++) count += word.at[i] == ',';
  request->prompt_tokens = count;
  request->count = request_context(count, positions);
  const char *end = word.at + word.length;
  for (const char *from = word.at; at < count; at++) {
    const char *comma = memchr(from, ',', (size_t)(end - from));
    const struct Word digits = {from, (size_t)((comma != NULL ? comma : end) - from)};
    uint64_t token;
    char text[WORD];
    if (!read_whole(digits, &token) || token >= V) {
      snprintf(message, MESSAGE, "the prompt takes token ids below %zu with commas between them, not '%s'", V,
               shown(digits, text));
      return false;
    }
    if (at >= count - request->count) request->prompt[at - (count - request->count)] = (int)token;
    from = digits.at + digits.length + 1;
  }
  return true;
}

/* Pairs of a token id and what is added to its logit, TOKEN:NUMBER, with commas between them. */
static bool read_biases(struct Sampling *sampling, struct Word word, size_t V, char *message) {
  const char *end = word.at + word.length;
  for (const char *from = word.at; from <= end;) {
    const char *comma = memchr(from, ',', (size_t)(end - from));
    const struct Word pair = {from, (size_t)((comma != NULL ? comma : end) - from)};
    const char *colon = memchr(pair.at, ':', pair.length);
    const size_t digits = colon != NULL ? (size_t)(colon - pair.at) : pair.length;
    uint64_t token;
    double added;
    char text[WORD];
    if (colon == NULL || !read_whole((struct Word){pair.at, digits}, &token) || token >= V ||
        !read_number((struct Word){colon + 1, pair.length - digits - 1}, &added) || fabs(added) > MOST_ADDED) {
      snprintf(message, MESSAGE, "bias takes pairs ID:NUMBER with commas between them, ids below %zu and numbers from "
               "-%d to %d, not '%s'", V, MOST_ADDED, MOST_ADDED, shown(pair, text));
      return false;
    }
    if (sampling->bias_count == MOST_BIASES) {
      snprintf(message, MESSAGE, "bias takes at most %d pairs", MOST_BIASES);
      return false;
    }
    sampling->biases[sampling->bias_count++] = (struct Bias){(int)token, (float)added};
    from = pair.at + pair.length + 1;
  }
  return true;
}

/* What a key's value may be. */
struct Key {
  const char *name;
  double *number;    // one of the two
  uint64_t *whole;
  double least, most;
};

static bool read_value(const struct Key *key, struct Word word, char *message) {
  char text[WORD];
  double number;
  bool ok = key->number != NULL ? read_number(word, &number) : read_whole(word, key->whole);
  if (ok && key->number == NULL) number = (double)*key->whole;
  if (ok && number >= key->least && number <= key->most) {
    if (key->number != NULL) *key->number = number;
    return true;
  }
  snprintf(message, MESSAGE, "%s takes a %snumber from %g to %g, not '%s'", key->name,
           key->number != NULL ? "" : "whole ", key->least, key->most, shown(word, text));
  return false;
}

static bool read_keys(struct Request *request, const char *rest, const char *end, size_t V, size_t positions,
                      char *message) {
  struct Sampling *s = &request->sampling;
  uint64_t tokens = 128, top_k = 0, eot = 0, logprobs = 0, echo = 0;
  const struct Key keys[] = {
      {"tokens", NULL, &tokens, 0, 1e9},
      {"temperature", &s->temperature, NULL, 0, 1e6},
      {"top-k", NULL, &top_k, 0, 1e9},
      {"top-p", &s->top_p, NULL, 0, 1},
      {"min-p", &s->min_p, NULL, 0, 1},
      {"repetition-penalty", &s->repetition_penalty, NULL, 1e-6, 1e6},
      {"seed", NULL, &s->seed, 0, 0x1p64},
      {"eot", NULL, &eot, 0, (double)V - 1},
      {"logprobs", NULL, &logprobs, 0, REQUEST_LOGPROBS},
      {"frequency-penalty", &s->frequency_penalty, NULL, -MOST_ADDED, MOST_ADDED},
      {"presence-penalty", &s->presence_penalty, NULL, -MOST_ADDED, MOST_ADDED},
      {"echo", NULL, &echo, 0, 1},
      {"bias", NULL, NULL, 0, 0},
  };
  enum { KEYS = sizeof keys / sizeof *keys, EOT = 7, BIAS = KEYS - 1 };
  unsigned seen = 0;
  struct Word name, value;
  bool prompted = false;
  while (next_word(&rest, end, &name)) {
    char text[WORD];
    size_t i = 0;
    while (i < KEYS && !is(name, keys[i].name)) i++;
    prompted = i == KEYS && is(name, "prompt");
    if (i == KEYS && !prompted) {
      snprintf(message, MESSAGE, "a request has no '%s'; it has tokens, temperature, top-k, top-p, min-p, "
               "repetition-penalty, frequency-penalty, presence-penalty, bias, seed, eot, logprobs, echo and, last, "
               "prompt", shown(name, text));
      return false;
    }
    if (!next_word(&rest, end, &value)) {
      snprintf(message, MESSAGE, "%s needs a value", shown(name, text));
      return false;
    }
    if (prompted) break;
    if (seen & 1u << i) {
      snprintf(message, MESSAGE, "%s is given twice", keys[i].name);
      return false;
    }
    seen |= 1u << i;
    if (i == EOT && is(value, "-1")) {
      seen |= 1u << KEYS;  // none
      continue;
    }
    if (!(i == BIAS ? read_biases(s, value, V, message) : read_value(&keys[i], value, message))) return false;
  }
  if (!prompted || rest <= end) {
    snprintf(message, MESSAGE, "a request ends with its prompt: prompt 1,2,3");
    return false;
  }
  request->tokens = tokens;
  s->top_k = top_k;
  request->eot = seen & 1u << EOT && !(seen & 1u << KEYS) ? (int)eot : -1;
  request->logprobs = logprobs;
  request->echo = echo != 0;
  return read_prompt(request, value, V, positions, message);
}

enum Asked request_parse(struct Request *request, const char *line, size_t length, size_t V, size_t positions,
                         char *message) {
  const char *rest = line, *end = line + length;
  struct Word verb = {line, 0}, id = {line, 0};
  char text[WORD];
  int *prompt = request->prompt;
  *request = (struct Request){.prompt = prompt, .eot = -1};
  request->sampling = (struct Sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 1337};
  next_word(&rest, end, &verb);
  const bool cancel = is(verb, "cancel");
  if (!cancel && !is(verb, "request")) {
    snprintf(message, MESSAGE, "a line begins with request or cancel, not '%s'", shown(verb, text));
    return ASKED_NONSENSE;
  }
  if (!next_word(&rest, end, &id) || !read_id(id, request->id)) {
    snprintf(message, MESSAGE, "an id is a word of 1 to %d letters, digits, _ and -, not '%s'", REQUEST_ID,
             shown(id, text));
    return ASKED_NONSENSE;
  }
  if (cancel && rest <= end) {
    snprintf(message, MESSAGE, "a cancel has an id and no more");
    return ASKED_NONSENSE;
  }
  if (cancel) return ASKED_CANCEL;
  return read_keys(request, rest, end, V, positions, message) ? ASKED_REQUEST : ASKED_NONSENSE;
}
