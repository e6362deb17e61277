// Verifies a served log with the packages that guard Go's modules: opens the checkpoint
// with a vkey, reads hashes through verified tiles, and proves and checks every leaf's
// inclusion and the consistency with every smaller tree.
//
// usage: tlog URL VKEY
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func fetch(url string) ([]byte, error) {
	answer, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != 200 {
		return nil, fmt.Errorf("%s: %s", url, answer.Status)
	}
	return io.ReadAll(answer.Body)
}

type server struct {
	url   string
	tiles map[string][]byte
}

func (s *server) Height() int { return 8 }

func (s *server) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range tiles {
		// The packages name the tile's height in the path; C2SP tlog-tiles does not.
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		if _, ok := s.tiles[path]; !ok {
			data, err := fetch(s.url + "/" + path)
			if err != nil {
				return nil, err
			}
			s.tiles[path] = data
		}
		found = append(found, s.tiles[path])
	}
	return found, nil
}

func (s *server) SaveTiles([]tlog.Tile, [][]byte) {}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "tlog:", err)
		os.Exit(1)
	}
}

func main() {
	url, vkey := os.Args[1], os.Args[2]
	verifier, err := note.NewVerifier(vkey)
	check(err)
	signed, err := fetch(url + "/checkpoint")
	check(err)
	opened, err := note.Open(signed, note.VerifierList(verifier))
	check(err)
	lines := strings.Split(opened.Text, "\n")
	var size int64
	_, err = fmt.Sscan(lines[1], &size)
	check(err)
	root, err := tlog.ParseHash(lines[2])
	check(err)
	tree := tlog.Tree{N: size, Hash: root}
	reader := tlog.TileHashReader(tree, &server{url, map[string][]byte{}})
	for index := int64(0); index < size; index++ {
		leaf, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
		check(err)
		proof, err := tlog.ProveRecord(size, index, reader)
		check(err)
		check(tlog.CheckRecord(proof, size, root, index, leaf[0]))
		old, err := tlog.TreeHash(index+1, reader)
		check(err)
		grown, err := tlog.ProveTree(size, index+1, reader)
		check(err)
		check(tlog.CheckTree(grown, size, root, index+1, old))
	}
	fmt.Printf("%s %d\n", lines[0], size)
}
