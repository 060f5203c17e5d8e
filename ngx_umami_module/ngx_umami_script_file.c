
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_hmac.h"
#include "ngx_umami_script_file.h"


/* of the first line: "umami_script 1 HASH LENGTH MODIFIED NAME" */
#define NGX_UMAMI_SCRIPT_FILE_HEAD  512
#define NGX_UMAMI_SCRIPT_FILE_HASH  (NGX_UMAMI_HMAC_LEN * 2)


static const char *ngx_umami_script_file_open(ngx_pool_t *pool,
    ngx_str_t *name, size_t max, ngx_str_t *text, ngx_file_info_t *info,
    ngx_fd_t fd);
static const char *ngx_umami_script_file_judge(ngx_str_t *script,
    ngx_str_t *text, ngx_str_t *body, time_t *modified);
static ngx_int_t ngx_umami_script_file_word(u_char **p, u_char *last,
    ngx_str_t *word);
static ngx_int_t ngx_umami_script_file_name(ngx_pool_t *pool, ngx_str_t *dir,
    ngx_str_t *script, ngx_str_t *name, ngx_str_t *temp);
static ngx_int_t ngx_umami_script_file_put(ngx_str_t *name, ngx_str_t *parts,
    ngx_uint_t n, ngx_err_t *err);
static ngx_int_t ngx_umami_script_file_hash(ngx_str_t *body, u_char *hash);


static ngx_str_t  ngx_umami_script_file_magic = ngx_string("umami_script");
static ngx_str_t  ngx_umami_script_file_form = ngx_string("1");


const char *
ngx_umami_script_file_load(ngx_pool_t *pool, ngx_str_t *name, int flags,
    size_t max, ngx_str_t *text, ngx_file_info_t *info)
{
    ngx_fd_t     fd;
    const char  *err;

    /* no pipe is waited for */

    fd = ngx_open_file(name->data, NGX_FILE_RDONLY|NGX_FILE_NONBLOCK|flags,
                       NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        return "cannot be opened";
    }

    err = ngx_umami_script_file_open(pool, name, max, text, info, fd);

    (void) ngx_close_file(fd);

    return err;
}


static const char *
ngx_umami_script_file_open(ngx_pool_t *pool, ngx_str_t *name, size_t max,
    ngx_str_t *text, ngx_file_info_t *info, ngx_fd_t fd)
{
    size_t   size;
    ssize_t  n;

    if (ngx_fd_info(fd, info) == NGX_FILE_ERROR) {
        return "cannot be looked at";
    }

    ngx_set_errno(0);

    if (!ngx_is_file(info)) {
        return "is not a regular file";
    }

    if (ngx_file_size(info) > (off_t) max) {
        return "is too large";
    }

    size = ngx_file_size(info);

    text->data = ngx_pnalloc(pool, size + 1);
    if (text->data == NULL) {
        return "cannot be kept: no memory";
    }

    for (text->len = 0; text->len < size; text->len += n) {

        n = ngx_read_fd(fd, text->data + text->len, size - text->len);

        if (n == -1) {
            return "cannot be read";
        }

        if (n == 0) {
            break;
        }
    }

    return NULL;
}


ngx_int_t
ngx_umami_script_file_read(ngx_pool_t *pool, ngx_str_t *dir,
    ngx_str_t *script, size_t max, ngx_str_t *body, time_t *modified)
{
    ngx_err_t         err;
    ngx_str_t         name, temp, text;
    const char       *fault;
    ngx_file_info_t   info, folder;

    if (ngx_umami_script_file_name(pool, dir, script, &name, &temp)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    /* who may write there must not lead the master elsewhere by a link */

    fault = ngx_umami_script_file_load(pool, &name, O_NOFOLLOW,
                                       max + NGX_UMAMI_SCRIPT_FILE_HEAD,
                                       &text, &info);
    err = fault ? ngx_errno : 0;

    if (fault && err == NGX_ENOENT) {
        return NGX_DECLINED;
    }

    if (fault == NULL) {

        if (ngx_file_info(dir->data, &folder) == NGX_FILE_ERROR
            || (info.st_uid != folder.st_uid && info.st_uid != 0))
        {
            fault = "belongs to somebody else";

        } else {
            fault = ngx_umami_script_file_judge(script, &text, body, modified);
        }
    }

    if (fault == NULL) {
        return NGX_OK;
    }

    ngx_log_error(NGX_LOG_WARN, pool->log, err,
                  "umami script \"%V\": the copy in \"%V\" is not used, it %s",
                  script, &name, fault);

    return NGX_ERROR;
}


static const char *
ngx_umami_script_file_judge(ngx_str_t *script, ngx_str_t *text,
    ngx_str_t *body, time_t *modified)
{
    off_t       len;
    u_char     *p, *last, *end;
    ngx_str_t   words[5];
    ngx_uint_t  i;
    u_char      hash[NGX_UMAMI_SCRIPT_FILE_HASH];

    end = text->data + text->len;
    last = ngx_strlchr(text->data, end, LF);

    if (last == NULL || last - text->data >= NGX_UMAMI_SCRIPT_FILE_HEAD) {
        return "has no first line of ours";
    }

    p = text->data;

    for (i = 0; i < 5; i++) {
        if (ngx_umami_script_file_word(&p, last, &words[i]) != NGX_OK) {
            return "has no first line of ours";
        }
    }

    len = ngx_atoof(words[3].data, words[3].len);
    *modified = ngx_atotm(words[4].data, words[4].len);

    if (p >= last
        || words[0].len != ngx_umami_script_file_magic.len
        || ngx_memcmp(words[0].data, ngx_umami_script_file_magic.data,
                      words[0].len) != 0
        || words[1].len != ngx_umami_script_file_form.len
        || ngx_memcmp(words[1].data, ngx_umami_script_file_form.data,
                      words[1].len) != 0
        || words[2].len != NGX_UMAMI_SCRIPT_FILE_HASH
        || len == (off_t) NGX_ERROR || *modified == (time_t) NGX_ERROR)
    {
        return "has no first line of ours";
    }

    if ((size_t) (last - p) != script->len
        || ngx_memcmp(p, script->data, script->len) != 0)
    {
        return "is of another script";
    }

    body->data = last + 1;
    body->len = end - body->data;

    if ((off_t) body->len != len) {
        return "was cut, or something was added";
    }

    if (ngx_umami_script_file_hash(body, hash) != NGX_OK
        || ngx_memcmp(hash, words[2].data, NGX_UMAMI_SCRIPT_FILE_HASH) != 0)
    {
        return "was changed";
    }

    return NULL;
}


/* ends at a space or at the end of the line, and is not empty */

static ngx_int_t
ngx_umami_script_file_word(u_char **p, u_char *last, ngx_str_t *word)
{
    u_char  *end;

    if (*p >= last) {
        return NGX_ERROR;
    }

    end = ngx_strlchr(*p, last, ' ');

    if (end == NULL) {
        end = last;
    }

    word->data = *p;
    word->len = end - *p;

    *p = end + 1;

    return word->len ? NGX_OK : NGX_ERROR;
}


ngx_int_t
ngx_umami_script_file_write(ngx_pool_t *pool, ngx_str_t *dir,
    ngx_str_t *script, ngx_str_t *body, time_t modified, ngx_err_t *err)
{
    ngx_str_t  name, temp, parts[2];
    u_char     hash[NGX_UMAMI_SCRIPT_FILE_HASH];
    u_char     head[NGX_UMAMI_SCRIPT_FILE_HEAD];

    *err = NGX_ENOMEM;

    if (ngx_umami_script_file_name(pool, dir, script, &name, &temp) != NGX_OK
        || ngx_umami_script_file_hash(body, hash) != NGX_OK)
    {
        return NGX_ERROR;
    }

    parts[0].data = head;
    parts[0].len = ngx_snprintf(head, NGX_UMAMI_SCRIPT_FILE_HEAD,
                                "%V %V %*s %uz %T %V\n",
                                &ngx_umami_script_file_magic,
                                &ngx_umami_script_file_form,
                                (size_t) NGX_UMAMI_SCRIPT_FILE_HASH, hash,
                                body->len, modified, script)
                   - head;
    parts[1] = *body;

    if (ngx_umami_script_file_put(&temp, parts, 2, err) != NGX_OK) {
        (void) ngx_delete_file(temp.data);
        return NGX_ERROR;
    }

    if (ngx_rename_file(temp.data, name.data) == NGX_FILE_ERROR) {
        *err = ngx_errno;
        (void) ngx_delete_file(temp.data);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* not synced to the disk: what a crash leaves is known by its hash */

static ngx_int_t
ngx_umami_script_file_put(ngx_str_t *name, ngx_str_t *parts, ngx_uint_t n,
    ngx_err_t *err)
{
    size_t      done;
    ssize_t     rc;
    ngx_fd_t    fd;
    ngx_uint_t  i;

    /* what a killed worker with the same number has left */

    (void) ngx_delete_file(name->data);

    fd = ngx_open_file(name->data, NGX_FILE_WRONLY|O_EXCL|O_NOFOLLOW,
                       NGX_FILE_CREATE_OR_OPEN, 0600);

    if (fd == NGX_INVALID_FILE) {
        *err = ngx_errno;
        return NGX_ERROR;
    }

    for (i = 0; i < n; i++) {

        for (done = 0; done < parts[i].len; done += rc) {

            rc = ngx_write_fd(fd, parts[i].data + done, parts[i].len - done);

            if (rc <= 0) {
                *err = ngx_errno;
                (void) ngx_close_file(fd);
                return NGX_ERROR;
            }
        }
    }

    if (ngx_close_file(fd) == NGX_FILE_ERROR) {
        *err = ngx_errno;
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* "/js/script.js" is kept in DIR/js%2Fscript.js */

static ngx_int_t
ngx_umami_script_file_name(ngx_pool_t *pool, ngx_str_t *dir,
    ngx_str_t *script, ngx_str_t *name, ngx_str_t *temp)
{
    u_char      c, *p;
    size_t      len;
    ngx_uint_t  i;

    len = dir->len + 1 + script->len * 3 + 1;

    name->data = ngx_pnalloc(pool, len);
    temp->data = ngx_pnalloc(pool, len + NGX_INT64_LEN + sizeof(".tmp."));

    if (name->data == NULL || temp->data == NULL) {
        return NGX_ERROR;
    }

    p = ngx_cpymem(name->data, dir->data, dir->len);
    *p++ = '/';

    for (i = 1; i < script->len; i++) {
        c = script->data[i];

        if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z')
            || (c >= 'a' && c <= 'z') || c == '-' || c == '_'
            || (c == '.' && i > 1))
        {
            *p++ = c;

        } else {
            p = ngx_sprintf(p, "%%%02Xi", (ngx_uint_t) c);
        }
    }

    *p = '\0';

    name->len = p - name->data;
    temp->len = ngx_sprintf(temp->data, "%V.tmp.%P%Z", name, ngx_pid)
                - temp->data - 1;

    return NGX_OK;
}


static ngx_int_t
ngx_umami_script_file_hash(ngx_str_t *body, u_char *hash)
{
    u_char  digest[NGX_UMAMI_HMAC_LEN];

    if (ngx_umami_hmac_digest(body, 1, digest) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_hex_dump(hash, digest, NGX_UMAMI_HMAC_LEN);

    return NGX_OK;
}
