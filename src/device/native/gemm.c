#include "runtime.h"
#include <math.h>
#include <string.h>
static int64_t rows(const dm_gemm*g,int64_t z){return g->m_off? g->m_off[z+1]-g->m_off[z]:g->m;}
static int64_t dep(const dm_gemm*g,int64_t z){return g->k_off? g->k_off[z+1]-g->k_off[z]:g->k;}
static int64_t tasks(const dm_ctx*c,const dm_gemm*g){(void)c;return g->groups;}
static void task(const dm_ctx*c,const dm_gemm*g,int64_t z){
  int64_t m=rows(g,z),k=dep(g,z),n=g->n; if(m<=0||n<=0)return;
  float*acc=c->scratch; float*A=acc+n; float*B=A+ (k>0?k:1);
  const float*a=g->a_base?g->a_base(c,z):0;const float*b=g->b_base?g->b_base(c,z):0;
  if(!b&&k>0)g->b_pack(c,z,0,k,0,n,B,n);
  for(int64_t i=0;i<m;i++){
    if(!a&&k>0){ if(g->a_pack_cols)g->a_pack(c,z,i,1,0,k,A,1); else g->a_pack(c,z,i,1,0,k,A,k);}
    for(int64_t j=0;j<n;j++)acc[j]=0;
    for(int64_t p=0;p<k;p++){float x=a?a[i*g->a_si+p*g->a_sk]:A[p];
      for(int64_t j=0;j<n;j++)acc[j]=__builtin_fmaf(x,b?b[p*g->b_sk+j*g->b_sj]:B[p*n+j],acc[j]);}
    g->store(c,z,i,1,0,n,acc,n);
  }
}
const dm_core dm_core_table={tasks,task};
